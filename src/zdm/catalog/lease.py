"""The lease: at most one zdm works on a rollout, and whoever lost it cannot commit any more.

It is rows, not session locks, so it works behind a transaction pooler. Three mechanisms:

* A daemon thread renews a heartbeat on a connection of its own. A lease without a beat for `EXPIRY` is free.
* The heartbeat names the server process of its connection. When that process is gone (kill -9 of the holder closes the
  socket), the lease is free at once. Behind a pooler the process says nothing about the holder, so it is not recorded.
* Every working transaction calls `Lease.guard`: it locks the token's row FOR SHARE. A takeover waits for those
  transactions, and a transaction that comes later finds another token and fails. So a holder that was only paused, or cut
  off, can neither commit nor be overtaken half-way.

Work that has no transaction (CREATE INDEX CONCURRENTLY) cannot be fenced so. Connections of the holder therefore carry
`Lease.application_name`; a taker ends what is left of them before it begins.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row, tuple_row

from zdm.errors import BadInput, Busy, ZdmError

BEAT: Final = timedelta(seconds=3)
EXPIRY: Final = timedelta(seconds=15)
_RECONNECT: Final = 0.2

Connect = Callable[[], psycopg.Connection[Any]]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, as found.

    Parameters
    ----------
    silent_for: time since the last sign of life.
    gone: whether the server process of the heartbeat's connection does not exist any more.
    """

    rollout: int
    token: uuid.UUID
    holder: str
    host: str
    os_pid: int
    acquired_at: datetime
    beat_at: datetime
    silent_for: timedelta
    gone: bool

    def free(self, expiry: timedelta = EXPIRY) -> bool:
        """Whether the lease may be taken over."""
        return self.gone or self.silent_for > expiry

    def __str__(self) -> str:
        return (
            f"{self.holder} (host {self.host}, process {self.os_pid}) since {self.acquired_at:%Y-%m-%d %H:%M:%S %Z}, "
            f"last heard of {self.silent_for.total_seconds():.1f} s ago"
        )


# Somebody else's row of pg_stat_activity shows the pid, but not always its backend_start: then "it exists" must do.
_HOLDER = """
SELECT l.rollout, l.token, l.holder, l.host, l.os_pid, l.acquired_at, h.beat_at,
       greatest(clock_timestamp() - h.beat_at, interval '0') AS silent_for,
       h.backend_pid IS NOT NULL AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS a
           WHERE a.pid = h.backend_pid AND (a.backend_start IS NULL OR a.backend_start = h.backend_start)) AS gone
FROM zdm.leases AS l JOIN zdm.lease_heartbeats AS h USING (rollout)
WHERE l.rollout = %s
"""


def holder(conn: psycopg.Connection[Any], rollout: int) -> Holder | None:
    """Who holds the lease of a rollout, alive or not; None if nobody does. Reads only."""
    with conn.cursor(row_factory=class_row(Holder)) as cursor:
        cursor.execute(_HOLDER, [rollout])
        return cursor.fetchone()


def acquire(
    connect: Connect,
    rollout: int,
    holder_description: str,
    *,
    patience: timedelta = timedelta(seconds=1),
    takeover_wait: timedelta = timedelta(seconds=10),
    beat: timedelta = BEAT,
    expiry: timedelta = EXPIRY,
) -> Lease:
    """Take the lease of a rollout, and keep it until `Lease.release` (or the end of the ``with`` block).

    Parameters
    ----------
    connect: opens a connection to the catalog's database; used for the heartbeat, and again whenever that one breaks.
    holder_description: what other people read, for example ``zdm advance by ana``.
    patience: how long to look again before giving up; covers the moment in which a killed holder's connection ends.
    takeover_wait: how long to wait for a transaction that a dead holder left running.

    Raises
    ------
    Busy: somebody else holds it; says who, since when, from where, and when it was last heard of.
    BadInput: there is no such rollout.
    """
    conn = _prepared(connect)
    try:
        token = _take(conn, rollout, holder_description, patience, takeover_wait, expiry)
        return Lease(connect, conn, rollout, token, holder_description, beat)
    except BaseException:
        conn.close()
        raise


class Lease:
    """A lease that is held. Made by `acquire`; use it as a context manager."""

    def __init__(
        self,
        connect: Connect,
        conn: psycopg.Connection[Any],
        rollout: int,
        token: uuid.UUID,
        holder_description: str,
        beat: timedelta,
    ) -> None:
        self.rollout = rollout
        self.token = token
        self.holder = holder_description
        self._connect = connect
        self._conn = conn
        self._beat = beat.total_seconds()
        self._lost = threading.Event()
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"zdm-lease-{rollout}", daemon=True)
        self._thread.start()

    @property
    def application_name(self) -> str:
        """What the holder's working connections set as ``application_name``, so that a taker finds those left behind."""
        return application_name(self.token)

    @property
    def lost(self) -> bool:
        """Whether somebody else has taken it over, as far as the heartbeat knows."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise `Busy` if the lease is lost. Asks no server; call it between units of work."""
        if self.lost:
            raise self._taken()

    def guard(self, cursor: psycopg.Cursor[Any]) -> None:
        """Make sure that the transaction of `cursor` can only commit while the lease is ours.

        Call it inside every working transaction, before the work. Until that transaction ends nobody can take the lease over.

        Raises
        ------
        Busy: the lease is not ours any more.
        ZdmError: there is no transaction that could be guarded.
        """
        cursor.execute(
            "SELECT true FROM zdm.leases WHERE rollout = %s AND token = %s FOR SHARE",
            [self.rollout, self.token],
        )
        held = cursor.fetchone() is not None
        if cursor.connection.info.transaction_status is not TransactionStatus.INTRANS:
            raise ZdmError("A lease guards a transaction, and none is open on this connection.")
        if not held:
            self._lost.set()
            raise self._taken()

    def release(self) -> None:
        """Give it back. Safe to repeat, and never fails: what cannot be given back is free once the heartbeat's connection ends."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._wake_write.send(b"x")
        self._thread.join()
        with contextlib.suppress(psycopg.Error, ZdmError, OSError):
            conn = self._usable()
            with conn.transaction():
                # A guarded transaction of our own may still be open, on its way to being rolled back by an error.
                conn.execute("SET LOCAL lock_timeout = '500ms'")
                conn.execute(
                    "DELETE FROM zdm.leases WHERE rollout = %s AND token = %s", [self.rollout, self.token]
                )
        self._conn.close()
        self._wake_read.close()
        self._wake_write.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _taken(self) -> Busy:
        return Busy(
            f"The lease of rollout {self.rollout} was taken over by somebody else while this process was out of touch.",
            remedy="What was committed stays. Run again; it says who holds it, or continues.",
        )

    def _usable(self) -> psycopg.Connection[Any]:
        if self._conn.closed:
            self._conn = _prepared(self._connect)
        return self._conn

    def _run(self) -> None:
        """The heartbeat. Wakes for the next beat, at once when the connection breaks, and for the end."""
        wait = self._beat
        while not self._stopping.is_set():
            sockets: list[Any] = (
                [self._wake_read] if self._conn.closed else [self._wake_read, self._conn.fileno()]
            )
            select.select(sockets, [], [], wait)
            if self._stopping.is_set():
                return
            try:
                if not _renew(self._usable(), self.rollout, self.token):
                    self._lost.set()
                    return
                wait = self._beat
            except (psycopg.Error, ZdmError, OSError):
                # The server may be restarting. Whether the lease is still ours is found out by the next beat that arrives.
                wait = _RECONNECT if self._conn.closed else 0
                self._conn.close()


def application_name(token: uuid.UUID) -> str:
    """The ``application_name`` of working connections under a token."""
    return f"zdm-{token.hex}"


def _prepared(connect: Connect) -> psycopg.Connection[Any]:
    """A connection whose statements are transactions of their own, whatever the database's defaults are."""
    conn = connect()
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        conn.rollback()
    conn.autocommit = True
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    conn.read_only = False
    return conn


def _own_process(conn: psycopg.Connection[Any]) -> int | None:
    """The server process of this connection; None behind a pooler, which answers with a process id of its own making."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT pg_catalog.pg_backend_pid()")
        return conn.info.backend_pid if cursor.fetchone() == (conn.info.backend_pid,) else None


def _renew(conn: psycopg.Connection[Any], rollout: int, token: uuid.UUID) -> bool:
    """One beat; False if the token is not ours any more."""
    pid = _own_process(conn)
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(
            """
            UPDATE zdm.lease_heartbeats AS h
            SET beat_at = clock_timestamp(), backend_pid = %(pid)s, backend_start = (
                SELECT a.backend_start FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = %(pid)s)
            FROM zdm.leases AS l
            WHERE l.rollout = h.rollout AND h.rollout = %(rollout)s AND l.token = %(token)s
            """,
            {"pid": pid, "rollout": rollout, "token": token},
        )
        return cursor.rowcount == 1


def _take(
    conn: psycopg.Connection[Any],
    rollout: int,
    description: str,
    patience: timedelta,
    takeover_wait: timedelta,
    expiry: timedelta,
) -> uuid.UUID:
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        found = holder(conn, rollout)
        if found is None or found.free(expiry):
            token = _try(conn, rollout, description, found, takeover_wait, expiry)
            if token is not None:
                return token
        elif time.monotonic() >= deadline:
            raise Busy(
                f"Rollout {rollout} is held by {found}.",
                remedy="Wait until it is done. A holder that died is replaced at once, or when it has been silent for "
                f"{expiry.total_seconds():.0f} s.",
            )
        else:
            time.sleep(0.05)


def _try(
    conn: psycopg.Connection[Any],
    rollout: int,
    description: str,
    found: Holder | None,
    wait: timedelta,
    expiry: timedelta,
) -> uuid.UUID | None:
    """One attempt in one transaction; None if somebody else moved in between, and it is to be looked at again."""
    token = uuid.uuid4()
    pid = _own_process(conn)
    row = {
        "rollout": rollout,
        "token": token,
        "holder": description,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    row = {
        "rollout": rollout,
        "token": token,
        "holder": description,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    if found is not None:
        _end_leftovers(conn, found)
    try:
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(int(wait.total_seconds() * 1000)))
            if found is None:
                cursor.execute(
                    """
                    INSERT INTO zdm.leases (rollout, token, holder, host, os_pid)
                    VALUES (%(rollout)s, %(token)s, %(holder)s, %(host)s, %(pid)s)
                    ON CONFLICT (rollout) DO NOTHING
                    """,
                    row,
                )
                if cursor.rowcount != 1:
                    return None
            else:
                # Waits for the dead holder's guarded transactions, and for any other taker.
                cursor.execute("SELECT token FROM zdm.leases WHERE rollout = %s FOR UPDATE", [rollout])
                now = holder(conn, rollout)
                if now is None or now.token != found.token or not now.free(expiry):
                    return None
                cursor.execute(
                    """
                    UPDATE zdm.leases SET token = %(token)s, holder = %(holder)s, host = %(host)s, os_pid = %(pid)s,
                        acquired_at = clock_timestamp()
                    WHERE rollout = %(rollout)s
                    """,
                    row,
                )
            cursor.execute(
                """
                INSERT INTO zdm.lease_heartbeats (rollout, backend_pid, backend_start)
                VALUES (%(rollout)s, %(pid)s, (
                    SELECT a.backend_start FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = %(pid)s))
                ON CONFLICT (rollout) DO UPDATE SET beat_at = excluded.beat_at, backend_pid = excluded.backend_pid,
                    backend_start = excluded.backend_start
                """,
                {"rollout": rollout, "pid": pid},
            )
            return token
    except psycopg.errors.ForeignKeyViolation as error:
        raise BadInput(f"There is no rollout {rollout}.", remedy="`zdm history` lists them.") from error
    except psycopg.errors.LockNotAvailable as error:
        raise Busy(
            f"Rollout {rollout} was held by {found or 'somebody'}, who is gone, but a transaction of theirs is still running.",
            remedy="Wait until the server has ended it, or end it: its application_name is "
            f"{application_name(found.token) if found else 'zdm-…'} in pg_stat_activity.",
        ) from error


def _end_leftovers(conn: psycopg.Connection[Any], found: Holder) -> None:
    """End the working connections that a dead holder left: they hold its locks, and their work could not commit."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        conn.execute(
            """
            SELECT pg_catalog.pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity AS a
            WHERE a.application_name = %s AND a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
            """,
            [application_name(found.token)],
        )
