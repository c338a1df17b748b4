"""Passwords stay out of everything."""

from __future__ import annotations

import pytest

from zdm.cli.secrets import checked_url, mask, secrets_of
from zdm.errors import BadInput


@pytest.mark.parametrize(
    "text, expected",
    [
        ("postgresql://u:p4ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql+psycopg://u:p4ss@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql://:p4ss@h/d", "postgresql://:***@h/d"),
        ("postgresql://u:p4@ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?password=p4ss&x=1", "postgresql://u@h/d?password=***&x=1"),
        ("host=h password=p4ss dbname=d", "host=h password=*** dbname=d"),
        ("host=h password='p4 s\\'s' dbname=d", "host=h password=*** dbname=d"),
        ("sslpassword=p4ss", "sslpassword=***"),
        ("PASSWORD = p4ss", "PASSWORD = ***"),
        ("http://localhost:9187/metrics", "http://localhost:9187/metrics"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("two: postgresql://u:one1@h/d, postgresql://u:two2@h/d", None),
    ],
)
def test_urls_and_connection_strings_are_masked(text: str, expected: str | None) -> None:
    masked = mask(text)
    if expected is None:
        assert "one1" not in masked
        assert "two2" not in masked
    else:
        assert masked == expected


def test_known_secrets_are_masked_wherever_they_stand() -> None:
    secrets = secrets_of("postgresql://u:p%40ss@h/d")
    assert secrets == {"p%40ss", "p@ss"}
    assert mask('invalid "p@ss" and p%40ss', secrets) == 'invalid "***" and ***'


def test_a_short_secret_does_not_make_text_unreadable() -> None:
    assert mask("a table", {"a"}) == "a table"
    assert mask("the shopping in shop", {"shop"}) == "the shopping in ***"


@pytest.mark.parametrize(
    "url, expected",
    [
        ("postgres://u@h/d", "postgresql://u@h/d"),
        (
            "postgresql+psycopg://u:p%40@h:5432/d?sslmode=require",
            "postgresql://u:p%40@h:5432/d?sslmode=require",
        ),
        ("postgresql:///d?host=/var/run/postgresql", "postgresql:///d?host=/var/run/postgresql"),
        ("postgresql://u@[::1]:5432/d", "postgresql://u@[::1]:5432/d"),
        ("postgresql://u@a:5432,b:5433/d", "postgresql://u@a:5432,b:5433/d"),
        ("host=h dbname=d", "host=h dbname=d"),
    ],
)
def test_good_urls(url: str, expected: str) -> None:
    assert checked_url(url, "--url") == expected


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3c@ret@h/d",
        "postgresql://u:s3c/ret@h/d",
        "postgresql://u:s3c#ret@h/d",
        "postgresql://u:s3c?ret@h/d",
        "postgresql://u:s3c%ret@h/d",
        "mysql://u:s3cret@h/d",
        "s3cret",
    ],
)
def test_bad_urls_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        checked_url(url, "--url")
    assert "s3c" not in str(caught.value)
    assert "ret" not in str(caught.value)
