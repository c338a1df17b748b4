"""A streaming standby of a development server."""

# A replica shares what its primary keeps to itself: programs, settings, password.
# ruff: noqa: SLF001

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from zdm.devdb.binaries import Binaries
from zdm.devdb.endpoint import SUPERUSER
from zdm.devdb.process import wait_until
from zdm.devdb.server import DevServer, Setting

if TYPE_CHECKING:
    from zdm.devdb.process import Home

_BASE_BACKUP_SECONDS = 600.0


class Replica(DevServer):
    """A hot standby that streams from `primary` through a replication slot. Made by `replica_of`.

    Parameters
    ----------
    primary: the running server to copy.
    name: the ``application_name`` that ``pg_stat_replication`` shows, and the name of the slot.
    settings: entries of ``postgresql.conf`` on top of the primary's.
    """

    def __init__(
        self, primary: DevServer, name: str, *, settings: Mapping[str, Setting] | None = None
    ) -> None:
        super().__init__(
            primary.binaries,
            settings={**primary._settings, **(settings or {})},
            durable=primary._durable,
        )
        self.primary = primary
        self.name = name
        # Roles, and with them their passwords, are the primary's.
        self._password = primary._password

    def catch_up(self, *, seconds: float = 30.0) -> None:
        """Wait until everything the primary had committed at the time of the call can be read here.

        Raises
        ------
        ZdmError: not within `seconds`.
        """
        with self.primary.connect(autocommit=True) as primary, self.connect(autocommit=True) as here:
            # A commit of its own flushes those before it that did not wait (synchronous_commit = off). Not the insert
            # position: what lies between it and the flushed one is sent only with the next commit.
            primary.execute("SELECT pg_logical_emit_message(true, 'zdm', '')")
            row = primary.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
            assert row is not None
            (target,) = row

            def replayed() -> bool:
                reached = here.execute(
                    "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)", [target]
                ).fetchone()
                return reached == (True,)

            wait_until(replayed, seconds=seconds, what=f"{self.name} to replay up to {target}")

    def _stage(self) -> Binaries:
        """The primary's: they are already where the account can run them, and live longer than this server."""
        return self.primary._programs

    def _initialize(self) -> None:
        home: Home = self._running_home
        source = make_conninfo(
            host=str(self.primary.socket_directory),
            port=self.primary.port,
            user=SUPERUSER,
            application_name=self.name,
        )
        home.run(
            [
                self._programs.path("pg_basebackup"),
                f"--pgdata={self.data_directory}",
                f"--dbname={source}",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--create-slot",
                f"--slot={self.name}",
                "--write-recovery-conf",
                "--no-sync",
            ],
            seconds=_BASE_BACKUP_SECONDS,
        )


def replica_of(
    primary: DevServer, name: str | None = None, *, settings: Mapping[str, Setting] | None = None
) -> Replica:
    """Make and start a streaming standby of a server; closing that server closes it first.

    Parameters
    ----------
    name: its ``application_name`` in ``pg_stat_replication``, and its slot's name.
    settings: entries of its ``postgresql.conf``, such as ``recovery_min_apply_delay``.
    """
    replica = Replica(primary, name or f"replica_{len(primary.attached) + 1}", settings=settings)
    primary.attached.append(replica)
    try:
        replica.start()
    except BaseException:
        replica.close()
        raise
    return replica
