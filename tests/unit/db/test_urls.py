"""Every usual way to write a database down is read, and none of it ever shows the password."""

from __future__ import annotations

import pytest

from zdm.db.session import PINNED, connect, mask_url, normalize_url
from zdm.errors import BadInput, ZdmError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5433/d", "postgresql://u:***@h:5433/d"),
        (f"postgresql+psycopg://u:{SECRET}@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"),
        (f"postgres://u@h/d?password={SECRET}", "postgresql://u:***@h/d"),
        (f"postgresql://u@h/d?sslpassword={SECRET}", "postgresql://u@h/d"),
        ("postgresql:///d?host=/run/pg", "postgresql:///d?host=/run/pg"),
        (f"host=h dbname=d user=u password={SECRET}", "host=h dbname=d user=u password=***"),
    ],
)
def test_read_and_shown(url: str, shown: str) -> None:
    normalize_url(url)
    assert SECRET not in mask_url(url)
    assert sorted(mask_url(url).split()) == sorted(shown.split())


@pytest.mark.parametrize(
    "url",
    [
        "",
        f"postgresql://u:{SECRET}@x@h/d",
        f"postgresql://u:x@{SECRET}@h/d",
        f"postgresql://u:{SECRET}/x@h/d",
        f"postgresql://u:1/{SECRET}@h/d",
        f"postgresql://u:{SECRET}%zz@h/d",
        f"postgresql://u:%zz{SECRET}@h/d",
        f"password=x {SECRET}",
        f"mysql://u:{SECRET}@h/d",
        f"postgresql://u@h:{SECRET}/d",
        f"postgresql://u@h/d?nonsense={SECRET}",
    ],
)
def test_refused_without_the_secret(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        connect(url, application_name="test")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert SECRET not in mask_url(url)


def test_nobody_listens() -> None:
    with pytest.raises(ZdmError, match="cannot connect to") as caught:
        connect(f"postgresql://u:{SECRET}@127.0.0.1:1/d", application_name="test")
    # It may answer later: a failure, not bad input.
    assert caught.value.exit_code == 1
    assert SECRET not in str(caught.value)


def test_temporary_objects_come_last() -> None:
    assert PINNED["search_path"] == "pg_catalog, pg_temp"
