"""What comparisons of both sides found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from zdm.catalog.backfills import BackfillState, BackfillStatus
from zdm.model.mapping import Authority
from zdm.model.names import QualifiedName, qualified


@dataclass(frozen=True, slots=True)
class Verification:
    """One comparison of every row of one table.

    Parameters
    ----------
    started_at: the server's time, not later than the snapshot was taken.
    rows: how many rows were looked at.
    mismatches: number of rows by kind of mismatch.
    sample_keys: a few keys by kind of mismatch, for people.
    snapshot: ``pg_current_snapshot()`` of the comparison, as text.
    without_old_form: rows of the new version that were recorded as having no old form; no mismatch.
    backfill_pass: the backfill's pass that was finished before the comparison began; filled in by `store`.
    finished_at: when it was stored; filled in by `store`.
    """

    table: QualifiedName
    started_at: datetime
    rows: int
    authority: Authority
    mismatches: Mapping[str, int] = field(default_factory=dict)
    sample_keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    snapshot: str = ""
    lsn: str | None = None
    without_old_form: int = 0
    backfill_pass: int | None = None
    finished_at: datetime | None = None

    @property
    def clean(self) -> bool:
        """Whether no row disagreed."""
        return not any(self.mismatches.values())

    def covers(self, backfill: BackfillState | None) -> bool:
        """Whether it came after the latest backfill, which is finished: what the gates ask."""
        return (
            backfill is not None
            and backfill.status is BackfillStatus.FINISHED
            and self.backfill_pass == backfill.pass_no
        )


def store(conn: psycopg.Connection[Any], rollout: int, found: Verification) -> Verification:
    """Keep a finished comparison; returns it as stored. One write, in the caller's transaction."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            INSERT INTO zdm.verifications (rollout, schema_name, table_name, started_at, rows_seen, authority, mismatches,
                                           sample_keys, snapshot, lsn, without_old_form, backfill_pass)
            VALUES (%(rollout)s, %(schema)s, %(name)s, %(started)s, %(rows)s, %(authority)s, %(mismatches)s,
                    %(samples)s, %(snapshot)s, %(lsn)s, %(without)s,
                    (SELECT pass_no FROM zdm.data_migrations
                     WHERE rollout = %(rollout)s AND schema_name = %(schema)s AND table_name = %(name)s
                       AND finished_at <= %(started)s))
            """,
            {
                "rollout": rollout,
                "schema": found.table.schema_,
                "name": found.table.name,
                "started": found.started_at,
                "rows": found.rows,
                "authority": found.authority.value,
                "mismatches": Jsonb(dict(found.mismatches)),
                "samples": Jsonb({kind: list(keys) for kind, keys in found.sample_keys.items()}),
                "snapshot": found.snapshot,
                "lsn": found.lsn,
                "without": found.without_old_form,
            },
        )
    stored = latest(conn, rollout, found.table)
    assert stored is not None
    return stored


def latest(conn: psycopg.Connection[Any], rollout: int, table: QualifiedName) -> Verification | None:
    """The latest comparison of one table, or None."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT schema_name, table_name, started_at, rows_seen, authority, mismatches, sample_keys, snapshot,
                   lsn::text AS lsn, without_old_form, backfill_pass, finished_at
            FROM zdm.verifications
            WHERE rollout = %s AND schema_name = %s AND table_name = %s
            ORDER BY started_at DESC, id DESC LIMIT 1
            """,
            [rollout, table.schema_, table.name],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    return Verification(
        table=qualified(row["schema_name"], row["table_name"]),
        started_at=row["started_at"],
        rows=row["rows_seen"],
        authority=Authority(row["authority"]),
        mismatches=row["mismatches"],
        sample_keys={kind: tuple(keys) for kind, keys in row["sample_keys"].items()},
        snapshot=row["snapshot"],
        lsn=row["lsn"],
        without_old_form=row["without_old_form"],
        backfill_pass=row["backfill_pass"],
        finished_at=row["finished_at"],
    )
