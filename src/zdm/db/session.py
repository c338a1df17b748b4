"""Connections, and the settings every statement of zdm runs under.

An expression must mean the same in the check, the backfill and the verification, whoever connects and however: so the
settings in `PINNED` hold for every statement. On a direct connection they are set once. Behind a transaction pooler a
session setting would be lost between transactions and, worse, leak to the next client of that server connection; there
nothing is set outside transactions, and `transaction` sets everything with ``SET LOCAL``. Code that evaluates anything
therefore always uses `transaction`, which works on both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, LiteralString, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg import pq, sql
from psycopg.abc import Params
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from zdm.errors import BadInput, ZdmError
from zdm.sql.identifiers import look_up
from zdm.sql.rows import PINNED_SETTINGS

Connection = psycopg.Connection[TupleRow]

MINIMUM_VERSION: Final = 140000

PINNED: Final[Mapping[str, str]] = {
    **PINNED_SETTINGS,
    # Temporary objects are searched first unless named; last, they cannot shadow the catalog.
    "search_path": "pg_catalog, pg_temp",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    # A row that a policy hides from us must be an error, never a row silently left out.
    "row_security": "off",
}
"""What decides how SQL is parsed, evaluated and shown; the same in every session of zdm."""

_SESSION: Final[Mapping[str, str]] = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "client_min_messages": "warning",
}

DEFAULT_IDLE: Final = timedelta(seconds=60)
"""How long an open transaction of ours may sit idle before the server ends it: a frozen client must not hold locks."""

WORK_MEM: Final = "64MB"
"""`work_mem` of statements that sort or join many rows; with the server's default of 4 MB those would go through files."""

_URL = re.compile(r"^(postgres(?:ql)?)(\+\w+)?://", re.IGNORECASE)
_SHOWN = ("host", "hostaddr", "port", "user", "dbname", "sslmode", "service", "target_session_attrs")


class OutcomeUnknown(ZdmError):  # noqa: N818 - named like the errors of zdm.errors
    """The connection was lost during COMMIT. Whether the transaction took effect must be probed, never guessed."""


class Session(psycopg.Connection[TupleRow]):
    """A connection made by `connect`.

    Attributes
    ----------
    pooled: whether a pooler stands between us and the server (then no session setting persists).
    role: the role that `transaction` assumes, or None.
    prelude: statements that every transaction which is rolled back anyway begins with. While a plan is made they create
        the types that the migration itself will create, so that expressions over them can be checked.
    """

    pooled: bool = False
    role: str | None = None
    prelude: tuple[str, ...] = ()


# --- connecting -------------------------------------------------------------------------------------------------------


def normalize_url(url: str) -> str:
    """The libpq form of a connection URL or conninfo string; SQLAlchemy's ``postgresql+driver://`` is accepted.

    Raises
    ------
    BadInput: it is neither. The message never repeats the text, which may hold a password.
    """
    text = url.strip()
    if not text:
        raise BadInput(
            "no database is named", remedy="Give --url, set ZDM_DATABASE_URL, or write url in zdm.toml."
        )
    scheme = _URL.match(text)
    if "://" in text.split("?", 1)[0] and not scheme and "=" not in text.split("://", 1)[0]:
        raise BadInput(
            f"{mask_url(text)} is not a PostgreSQL URL",
            remedy="Write it as postgresql://user@host:5432/database.",
        )
    if scheme:
        rest = text[scheme.end() :]
        authority, _, database = rest.split("?", 1)[0].partition("/")
        # libpq would take a part of the password for the host, and print it when that cannot be found.
        if authority.count("@") > 1 or "@" in database:
            raise BadInput(
                "the database URL has an '@' or '/' that is not a separator",
                remedy="Write special characters of user name and password percent-encoded: @ as %40, / as %2F, : as %3A.",
            )
        text = f"postgresql://{rest}"
    _parse(text)
    return text


def _parse(text: str) -> dict[str, Any]:
    try:
        parameters = conninfo_to_dict(text)
    except psycopg.Error:
        # libpq quotes the part it could not read, and that can be the password.
        raise BadInput(
            "the database URL cannot be read",
            remedy="Write it as postgresql://user@host:5432/database (special characters percent-encoded), "
            "or as 'host=… port=… dbname=… user=…'.",
        ) from None
    ports = str(parameters.get("port") or "").split(",")
    if any(port and not port.isdigit() for port in ports):
        raise BadInput(
            "the port in the database URL is not a number",
            remedy="Write special characters of user name and password percent-encoded: / as %2F, : as %3A.",
        )
    return parameters


def mask_url(url: str) -> str:
    """The connection for people: where it leads and as whom, without the password or anything else that may be secret."""
    text = url.strip()
    scheme = _URL.match(text)
    try:
        parameters = _parse(f"postgresql://{text[scheme.end() :]}" if scheme else text)
    except BadInput:
        return "postgresql://***" if scheme else "***"
    if "@" in str(parameters.get("host", "")) or "@" in str(parameters.get("dbname", "")):
        return "postgresql://***"
    shown = {key: str(parameters[key]) for key in _SHOWN if parameters.get(key)}
    if "://" in shown.get("dbname", ""):
        return "***"
    if not scheme:
        return make_conninfo(**shown, **({"password": "***"} if parameters.get("password") else {}))
    user = shown.pop("user", "") + (":***" if parameters.get("password") else "")
    host, port = shown.pop("host", ""), shown.pop("port", "")
    if host.startswith("/"):
        shown, host = {"host": host, **shown}, ""
    place = (f"{user}@" if user else "") + host + (f":{port}" if port else "")
    database = shown.pop("dbname", "")
    query = "&".join(f"{key}={value}" for key, value in shown.items())
    return f"postgresql://{place}/{database}" + (f"?{query}" if query else "")


def connect(url: str, *, application_name: str, role: str | None = None, timeout: int = 10) -> Session:
    """Open a connection in autocommit mode, settings pinned; transactions are explicit (`transaction`).

    Parameters
    ----------
    url: a PostgreSQL URL, SQLAlchemy's form of it, or a libpq conninfo string.
    application_name: what `pg_stat_activity` shows, so that a person can tell who holds a lock.
    role: a role to assume (``SET ROLE``), for deployments whose login role is only a member of the owner.
    timeout: seconds to wait for the server; `connect_timeout` in the URL wins.

    Raises
    ------
    BadInput: the URL is wrong, nobody answers, the server refuses us, or it is older than PostgreSQL 14.
    """
    text = normalize_url(url)
    given = _parse(text)
    defaults: dict[str, Any] = {
        "connect_timeout": timeout,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "application_name": application_name,
    }
    options = {key: value for key, value in defaults.items() if key not in given or key == "application_name"}
    try:
        conn = Session.connect(text, autocommit=True, prepare_threshold=None, **options)
    except psycopg.Error as error:
        raise _refused(url, error) from None
    try:
        _settle_in(conn, url, role)
    except psycopg.Error as error:
        conn.close()
        raise _refused(url, error) from None
    except BaseException:
        conn.close()
        raise
    return conn


def _settle_in(conn: Session, url: str, role: str | None) -> None:
    if conn.info.server_version < MINIMUM_VERSION:
        major = conn.info.server_version // 10000
        raise BadInput(
            f"{mask_url(url)} is PostgreSQL {major}; zdm needs 14 or newer",
            remedy="Upgrade the server first.",
        )
    # A pooler hands its clients cancel keys of its own, so the process id told at login is not the server's.
    conn.pooled = fetch_value(conn, "SELECT pg_catalog.pg_backend_pid()") != conn.info.backend_pid
    conn.role = role
    if role is not None:
        allowed = fetch_value(
            conn,
            "SELECT pg_catalog.pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = %s",
            (role,),
        )
        if not allowed:
            found = "does not exist" if allowed is None else f"cannot be assumed by {conn.info.user}"
            raise BadInput(
                f"role {role} {found}", remedy=f"GRANT {role} TO {conn.info.user}, or name another role."
            )
    if conn.pooled:
        return
    statements = [_set(name, value) for name, value in {**PINNED, **_SESSION}.items()]
    if conn.info.server_version >= 170000:
        statements.append(_set("transaction_timeout", "0"))
    if role is not None:
        statements.append(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    conn.execute(sql.SQL("; ").join(statements))


_PASSING: Final = (
    "starting up",
    "shutting down",
    "recovery mode",
    "not yet accepting connections",
    "closed the connection unexpectedly",
    "Connection reset",
    "Broken pipe",
    "terminating connection",
    "too many clients",
    "connection slots",
)
"""What a server says that answers again in a moment."""


def _refused(url: str, error: psycopg.Error) -> ZdmError:
    """A wrong URL is bad input; a server that does not answer may answer later, and is a failure."""
    text = " ".join(str(error).split())
    where = mask_url(url)
    if "password authentication failed" in text or "no password supplied" in text:
        remedy = "Check the user name and password (or the password file)."
    elif "does not exist" in text:
        remedy = "Check the database and user name."
    elif any(sign in text for sign in _PASSING):
        return ZdmError(
            f"cannot connect to {where}: {text}",
            remedy="Try again when the server is back; its log says what became of it.",
            changed="Nothing was changed.",
        )
    elif "refused" in text or "translate host name" in text or "timeout" in text or "No such file" in text:
        return ZdmError(
            f"cannot connect to {where}: {text}",
            remedy="Check that the server runs there, and that host and port are right.",
            changed="Nothing was changed.",
        )
    else:
        remedy = "Check the URL, and the server's log."
    return BadInput(f"cannot connect to {where}: {text}", remedy=remedy)


def takes_no_writes() -> BadInput:
    """What is said of a standby."""
    return BadInput(
        "this server takes no writes: it is a standby",
        remedy="Connect to the primary (several hosts in the URL and target_session_attrs=primary find it).",
        changed="Nothing was changed.",
    )


# --- small helpers ----------------------------------------------------------------------------------------------------


Query: TypeAlias = LiteralString | sql.SQL | sql.Composed


def fetch_value(conn: psycopg.Connection[Any], query: Query, params: Params | None = None) -> Any:
    """The first column of the first row, or None if there is no row."""
    row = conn.execute(query, params).fetchone()
    return None if row is None else row[0]


def execute_one(conn: psycopg.Connection[Any], query: Query | sql.Composable) -> psycopg.Cursor[Any]:
    """Execute exactly one statement: the server refuses text that holds several.

    psycopg sends a query without parameters by the simple protocol, which runs all statements it holds, and ignores
    ``prepare=True`` where prepared statements are off, as they are here. Asking for binary results takes the other one.
    Whatever holds text of a user's goes through here.
    """
    return conn.execute(sql.Composed([query]) if isinstance(query, sql.Composable) else query, binary=True)


def milliseconds(duration: timedelta) -> str:
    """A duration as a server setting; anything above zero is at least 1 ms, because 0 would mean no limit."""
    count = duration.total_seconds() * 1000
    return "0" if count <= 0 else f"{max(1, round(count))}ms"


def _set(name: str, value: str, *, local: bool = False) -> sql.Composed:
    if name == "search_path":
        parts = [sql.Identifier(part.strip()) for part in value.split(",")]
        return sql.SQL("SET {}search_path = {}").format(
            sql.SQL("LOCAL " if local else ""), sql.SQL(", ").join(parts)
        )
    return sql.SQL("SET {}{} = {}").format(
        sql.SQL("LOCAL " if local else ""), sql.Identifier(name), sql.Literal(value)
    )


# --- transactions -----------------------------------------------------------------------------------------------------

_ISOLATION: Final[Mapping[str, LiteralString]] = {
    "read committed": "READ COMMITTED",
    "repeatable read": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
}


@contextmanager
def transaction(
    conn: psycopg.Connection[Any],
    *,
    isolation: str = "read committed",
    read_only: bool = False,
    lock_timeout: timedelta | None = None,
    statement_timeout: timedelta | None = None,
    idle_timeout: timedelta = DEFAULT_IDLE,
    settings: Mapping[str, str] | None = None,
    path: Sequence[str] = (),
    rollback: bool = False,
) -> Iterator[None]:
    """One transaction under the pinned settings, committed at the end, rolled back if the block raises.

    Everything is set in the same round trip as ``BEGIN`` and is local to the transaction, so it holds behind a
    transaction pooler as well. A nested ``conn.transaction()`` makes savepoints.

    Parameters
    ----------
    isolation: "read committed", "repeatable read" or "serializable", whatever the database's default is.
    lock_timeout / statement_timeout: None means no limit, also where the role or database sets one.
    idle_timeout: how long the transaction may wait for us before the server ends it.
    settings: further settings, local to this transaction (``synchronous_commit`` …). ``work_mem`` is the least of it: where the
        server, database or role gives more, that stays.
    path: schemas in which names are looked up after the server's own. Whoever writes rows of a table says its mapping's, since
        the application's triggers may not qualify what they name.
    rollback: always roll back, for experiments on the server.

    Raises
    ------
    OutcomeUnknown: the connection was lost during COMMIT.
    BadInput: the server is a standby, and the transaction is not `read_only`.
    ZdmError: the transaction had already failed inside, so that COMMIT became a rollback.
    """
    if conn.info.transaction_status != pq.TransactionStatus.IDLE:
        raise RuntimeError(
            "a transaction is open already, or the connection is closed; transaction() does not nest"
        )
    everything = {
        **PINNED,
        "statement_timeout": milliseconds(statement_timeout or timedelta()),
        "lock_timeout": milliseconds(lock_timeout or timedelta()),
        "idle_in_transaction_session_timeout": milliseconds(idle_timeout),
        "client_min_messages": "warning",
        **({"transaction_timeout": "0"} if conn.info.server_version >= 170000 else {}),
        **(settings or {}),
    }
    if "work_mem" in everything and _has_more(conn, everything["work_mem"]):
        del everything["work_mem"]
    try:
        try:
            conn.execute(_begin(conn, isolation, read_only, everything, path))
        except psycopg.errors.FeatureNotSupported:
            raise takes_no_writes() from None  # nothing else of BEGIN is refused so: only a standby refuses READ WRITE
        for statement in getattr(conn, "prelude", ()) if rollback else ():
            conn.execute(statement)
        yield
    except BaseException:
        abandon(conn)
        raise
    if rollback:
        abandon(conn)
    elif _is_open(conn):
        commit(conn)  # else the block has sent its own COMMIT, together with its last statements


_ROOMY: Final[WeakKeyDictionary[psycopg.Connection[Any], bool]] = WeakKeyDictionary()


def _has_more(conn: psycopg.Connection[Any], memory: str) -> bool:
    """Whether the session's `work_mem` is more than that; asked once, before BEGIN, after which a snapshot could not be imported."""
    if conn not in _ROOMY:
        query = "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('work_mem')) > pg_catalog.pg_size_bytes(%s)"
        _ROOMY[conn] = bool(fetch_value(conn, query, (memory,)))
    return _ROOMY[conn]


def _is_open(conn: psycopg.Connection[Any]) -> bool:
    return conn.info.transaction_status != pq.TransactionStatus.IDLE


def _begin(
    conn: psycopg.Connection[Any],
    isolation: str,
    read_only: bool,
    settings: Mapping[str, str],
    path: Sequence[str],
) -> bytes:
    role = getattr(conn, "role", None)
    return _begin_text(isolation, read_only, role, tuple(settings.items()), tuple(path))


@lru_cache(maxsize=256)
def _begin_text(
    isolation: str,
    read_only: bool,
    role: str | None,
    settings: tuple[tuple[str, str], ...],
    path: tuple[str, ...],
) -> bytes:
    """BEGIN with its settings as text: composed once, because a backfill begins thousands of equal transactions."""
    access: LiteralString = "READ ONLY" if read_only else "READ WRITE"
    statements: list[sql.Composable] = [
        sql.SQL("BEGIN ISOLATION LEVEL {} {}").format(sql.SQL(_ISOLATION[isolation]), sql.SQL(access))
    ]
    if role is not None:
        statements.append(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
    statements += [_set(name, value, local=True) for name, value in settings]
    if path:
        statements.append(sql.SQL("SET LOCAL search_path = {}").format(look_up(path)))
    return sql.SQL("; ").join(statements).as_string(None).encode()


def commit(conn: psycopg.Connection[Any]) -> None:
    """COMMIT, telling a lost connection (`OutcomeUnknown`) and a silent rollback (`ZdmError`) from success."""
    try:
        status = conn.execute("COMMIT").statusmessage
    except psycopg.Error as error:
        # A backend that is terminated while it waits for a standby has committed: only a server that still
        # talks to us has said no.
        if conn.closed or conn.broken or conn.info.transaction_status == pq.TransactionStatus.UNKNOWN:
            raise OutcomeUnknown(
                "the connection was lost while the server committed; whether it did is not known",
                remedy="Run the same command again: it looks what the database holds and goes on from there.",
            ) from error
        abandon(conn)
        raise
    if status != "COMMIT":
        raise ZdmError(
            "a statement inside the transaction failed, so the server rolled it back instead of committing"
        )


def abandon(conn: psycopg.Connection[Any]) -> None:
    """ROLLBACK, if there is anything to roll back and a server to ask; never raises for a lost connection."""
    if conn.closed or conn.info.transaction_status == pq.TransactionStatus.IDLE:
        return
    try:
        if conn.info.transaction_status == pq.TransactionStatus.ACTIVE:
            conn.close()  # interrupted in the middle of a statement: the protocol state cannot be trusted
        else:
            conn.execute("ROLLBACK")
    except psycopg.Error:
        conn.close()


def search_path_of(schemas: Sequence[str]) -> sql.Composed:
    """``SET LOCAL search_path`` to these schemas, quoted; an empty list leaves only pg_catalog."""
    names = [sql.Identifier(name) for name in schemas] or [sql.Identifier("pg_catalog")]
    return sql.SQL("SET LOCAL search_path = {}").format(sql.SQL(", ").join(names))
