"""Keeps passwords out of every output: URLs, connection strings, and whatever libpq chose to repeat of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from zdm.errors import BadInput

MASK = "***"

_IN_URL = re.compile(r"(?P<head>\b[A-Za-z][A-Za-z0-9+.\-]*://[^\s:/@'\"]*:)(?P<secret>[^\s'\"]*)(?=@)")
_IN_CONNINFO = re.compile(
    r"(?P<head>\b(?:ssl)?password\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE
)
_SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MINIMUM = 3
"""Shorter secrets are not searched for in running text: the text would be unreadable, and the secret is none."""


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the passwords of URLs and connection strings in it, and without any of the known `secrets`."""
    text = _IN_URL.sub(rf"\g<head>{MASK}", text)
    text = _IN_CONNINFO.sub(rf"\g<head>{MASK}", text)
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _MINIMUM:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def secrets_of(url: str) -> set[str]:
    """The passwords in a URL or connection string, as written and decoded; also where it is malformed."""
    found: set[str] = set()
    for pattern in (_IN_URL, _IN_CONNINFO):
        for match in pattern.finditer(url):
            secret = match["secret"]
            if secret.startswith("'"):
                secret = re.sub(r"\\(.)", r"\1", secret[1:-1])
            found |= {secret, unquote(secret)}
    return found - {""}


def checked_url(url: str, came_from: str) -> str:
    """`url` as psycopg wants it. Raises `BadInput`, without repeating any of it, where libpq would misread the password.

    ``postgresql+psycopg://`` and its likes, as SQLAlchemy writes them, are taken as well; so is ``host=… dbname=…``.
    """
    url = url.strip()
    scheme = _SCHEME.match(url)
    if scheme is None:
        if "://" in url or "=" not in url:
            raise BadInput(
                f"{came_from} is not a PostgreSQL connection URL",
                remedy="Write it as postgresql://user@host:5432/database, or as host=… dbname=….",
            )
        return url
    rest = url[scheme.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    remainder = rest[len(authority) :]
    user, at, hosts = authority.rpartition("@")
    ports = [host.rpartition(":")[2] for host in hosts.split(",") if ":" in re.sub(r"\[.*?\]", "", host)]
    if (
        "@" in user
        or "@" in remainder.split("?", 1)[0]
        or (not at and "@" in remainder)
        or not all(port == "" or port.isdigit() for port in ports)
        or _BAD_PERCENT.search(user)
        or "#" in remainder
    ):
        raise BadInput(
            f"{came_from} cannot be read: a character of the user name or password has to be percent-encoded",
            remedy="Write @ as %40, : as %3A, / as %2F, # as %23, ? as %3F and % as %25; or leave the password to PGPASSFILE.",
        )
    return "postgresql://" + rest
