"""How far the standbys are behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class StandbyLag:
    """One standby.

    Parameters
    ----------
    name: its application_name, or its masked URL if it was asked itself.
    state: `pg_stat_replication.state`, or "asked itself".
    behind: how long ago what it has not replayed was committed; zero if nothing is outstanding; None if unreadable.
    bytes: WAL written by the primary and not replayed there; None if unreadable.
    unreadable: why it could not be read; empty if it could.
    """

    name: str
    state: str
    behind: timedelta | None
    bytes: int | None
    unreadable: str = ""


def replication_lag(conn: psycopg.Connection[Any], replicas: Sequence[str] = ()) -> tuple[StandbyLag, ...]:
    """Every standby the primary knows (one entry each), then every configured one, asked itself.

    Parameters
    ----------
    conn: the primary.
    replicas: URLs of standbys that must exist; one that cannot be reached is an entry with `unreadable` set.
    """
    raise NotImplementedError
