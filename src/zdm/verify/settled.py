"""What is wrong with a key that is written without pause, where both sides are synced by log: something always waits of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import errors, sql

from zdm.db.session import transaction
from zdm.model.row_mapping import RowMapping
from zdm.sql import row_log

T = TypeVar("T")

TRIES = 20
"""How often such a key is brought to agree, and compared."""

_LOCK_TIMEOUT = timedelta(milliseconds=20)


def settled(
    conn: psycopg.Connection[Any],
    mapping: RowMapping,
    rollout: int,
    key: Sequence[str],
    wrong: Callable[[], T],
    *,
    unknown: T,
) -> T:
    """What `wrong` finds once the key is brought to agree, in the same transaction, before anybody has written it again; as often as that takes.

    Parameters
    ----------
    key: as the log has it.
    wrong: compares it; what it returns is false where nothing is wrong.
    unknown: what to return where its rows were never free.
    """
    reconcile = row_log.reconcile_key(
        mapping, rollout, sql.SQL("{}::text[]").format(sql.Literal(list(key))), None
    )
    found = unknown
    for _ in range(TRIES):
        with (
            suppress(
                errors.LockNotAvailable, errors.DeadlockDetected, psycopg.DataError, psycopg.IntegrityError
            ),
            transaction(conn, lock_timeout=_LOCK_TIMEOUT),
        ):
            conn.execute(sql.SQL("SELECT {}").format(reconcile))
            found = wrong()
        if not found:
            break
        time.sleep(random.uniform(0, 0.02))  # noqa: S311  # jitter
    return found
