"""Rollouts: one migration on one target, its plan, its state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, tuple_row
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from zdm.errors import BadInput, Busy, IllegalMove, of_another_version
from zdm.model.mapping import Authority
from zdm.model.names import QualifiedName, qualified, sql_name
from zdm.model.phases import State
from zdm.model.plan import Plan
from zdm.model.step import Phase


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout as it stood when it was read. The plan is read separately: `plan`.

    Parameters
    ----------
    checksum: the migration's checksum when it was planned.
    phase: the last phase it entered, kept on the way back; None before the first.
    fenced_at: since when the old structure is set aside under other names; None if it is not.
    failure: why the present ``*_failed`` state was entered.
    switched_over_at: when the new side became the authority for good; soak times count from here.
    """

    id: int
    migration: str
    checksum: str
    target: str
    state: State
    phase: Phase | None
    authority: Authority
    paused: bool
    fenced_at: datetime | None
    old_schema: str
    new_schema: str
    failure: str | None
    created_at: datetime
    created_by: str
    preparation_started_at: datetime | None
    preparation_finished_at: datetime | None
    migration_started_at: datetime | None
    migration_finished_at: datetime | None
    switchover_started_at: datetime | None
    switched_over_at: datetime | None
    cleanup_started_at: datetime | None
    completed_at: datetime | None
    rollback_started_at: datetime | None
    rolled_back_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", State(self.state))
        object.__setattr__(self, "phase", None if self.phase is None else Phase(self.phase))
        object.__setattr__(self, "authority", Authority(self.authority))


_COLUMNS = sql.SQL(", ").join(sql.Identifier("r", field.name) for field in fields(Rollout))
_SELECT = sql.SQL("SELECT {} FROM zdm.module_migrations AS r ").format(_COLUMNS)


def create(conn: psycopg.Connection[Any], plan: Plan) -> Rollout:
    """Record a plan as a new rollout, `planned`, with its steps pending. Atomic, inside the caller's transaction or in its own.

    A rolled back rollout of the same migration and target stays as history; this is also how one starts over.

    Raises
    ------
    BadInput: the migration is not registered, or is on its way on this target already.
    """
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "INSERT INTO zdm.targets (name, schema_name) VALUES (%(target)s, %(target)s) ON CONFLICT DO NOTHING",
            {"target": plan.target},
        )
        try:
            with conn.transaction():
                cursor.execute(
                    """
                    INSERT INTO zdm.module_migrations (migration, checksum, target, plan, old_schema, new_schema)
                    SELECT m.id, m.checksum, %s, %s, %s, %s FROM zdm.schema_migrations AS m WHERE m.id = %s
                    RETURNING id
                    """,
                    [plan.target, _jsonb(plan), plan.old_schema, plan.new_schema, plan.migration],
                )
                row = cursor.fetchone()
        except psycopg.errors.UniqueViolation as error:
            other = find(conn, plan.migration, plan.target)
            raise BadInput(
                f"Migration {plan.migration!r} already has a rollout on {sql_name(plan.target)}: "
                + (f"number {other.id}, {other.state}." if other else "another one that began just now."),
                remedy="Continue it with `zdm advance`, or take it back with `zdm rollback`.",
            ) from error
        if row is None:
            raise BadInput(
                f"Migration {plan.migration!r} is not registered.", remedy="Register its file first."
            )
        rollout = int(row[0])
        _store_contents(conn, rollout, plan)
        return get(conn, rollout)


def replan(conn: psycopg.Connection[Any], rollout: int, plan: Plan) -> Rollout:
    """Replace the plan and the steps of a rollout that has not started. Atomic, inside the caller's transaction or in its own.

    Raises
    ------
    IllegalMove: it has started; a resume runs what was planned.
    """
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            UPDATE zdm.module_migrations AS r
            SET plan = %s, old_schema = %s, new_schema = %s, checksum = m.checksum
            FROM zdm.schema_migrations AS m
            WHERE m.id = r.migration AND r.id = %s AND r.state = 'planned' AND r.migration = %s AND r.target = %s
            RETURNING r.id
            """,
            [_jsonb(plan), plan.old_schema, plan.new_schema, rollout, plan.migration, plan.target],
        )
        if cursor.fetchone() is None:
            raise IllegalMove(
                f"Rollout {rollout} cannot be planned again: it has started, or is of another migration."
            )
        cursor.execute("DELETE FROM zdm.migration_steps WHERE rollout = %s", [rollout])
        cursor.execute("DELETE FROM zdm.rollout_tables WHERE rollout = %s", [rollout])
        _store_contents(conn, rollout, plan)
        return get(conn, rollout)


def get(conn: psycopg.Connection[Any], rollout: int) -> Rollout:
    """The rollout with this number. Raises `BadInput` if there is none."""
    found = _one(conn, sql.SQL("WHERE r.id = %s"), [rollout])
    if found is None:
        raise BadInput(f"There is no rollout {rollout}.", remedy="`zdm history` lists them.")
    return found


def find(conn: psycopg.Connection[Any], migration: str, target: str) -> Rollout | None:
    """The rollout of a migration on a target: the live one, else the latest that was rolled back, else None."""
    return _one(
        conn,
        sql.SQL(
            "WHERE r.migration = %s AND r.target = %s ORDER BY r.state = 'rolled_back', r.id DESC LIMIT 1"
        ),
        [migration, target],
    )


def all_of(
    conn: psycopg.Connection[Any],
    *,
    migration: str | None = None,
    target: str | None = None,
    active: bool = False,
) -> list[Rollout]:
    """Rollouts, oldest first. `active` leaves out those planned, completed or rolled back."""
    with conn.cursor(row_factory=class_row(Rollout)) as cursor:
        cursor.execute(
            _SELECT
            + sql.SQL(
                """
                JOIN zdm.phase_states AS s ON s.state = r.state
                WHERE (%(migration)s::text IS NULL OR r.migration = %(migration)s)
                  AND (%(target)s::text IS NULL OR r.target = %(target)s)
                  AND (NOT %(active)s OR s.active)
                ORDER BY r.id
                """
            ),
            {"migration": migration, "target": target, "active": active},
        )
        return cursor.fetchall()


def plan(conn: psycopg.Connection[Any], rollout: int) -> Plan:
    """The stored plan: what a resume runs. Raises `BadInput` if there is no such rollout."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT plan::text FROM zdm.module_migrations WHERE id = %s", [rollout])
        row = cursor.fetchone()
    if row is None:
        raise BadInput(f"There is no rollout {rollout}.", remedy="`zdm history` lists them.")
    try:
        return Plan.model_validate_json(row[0])
    except ValidationError as error:
        raise of_another_version(f"The plan of rollout {rollout}", error) from None


def move(conn: psycopg.Connection[Any], rollout: int, state: State, *, failure: str | None = None) -> Rollout:
    """Move to `state`; the database stamps the times and claims or frees the tables.

    Atomic, inside the caller's transaction or in its own; a refusal leaves the caller's transaction usable.

    Parameters
    ----------
    failure: why, for the ``*_failed`` states; any other move clears the last one.

    Raises
    ------
    IllegalMove: the phase machine has no such move from the present state (which another zdm may have changed).
    Busy: another rollout under way changes one of its tables; the error names it.
    """
    with _translated(), conn.transaction(), conn.cursor(row_factory=class_row(Rollout)) as cursor:
        cursor.execute(
            sql.SQL(
                "UPDATE zdm.module_migrations AS r SET state = %s, failure = %s WHERE r.id = %s RETURNING {}"
            ).format(_COLUMNS),
            [state.value, failure, rollout],
        )
        found = cursor.fetchone()
    return found if found is not None else get(conn, rollout)


def set_authority(conn: psycopg.Connection[Any], rollout: int, authority: Authority) -> None:
    """Record which side wins. One write, meant for the transaction that replaces the sync functions."""
    conn.execute("UPDATE zdm.module_migrations SET authority = %s WHERE id = %s", [authority.value, rollout])


def set_fenced(conn: psycopg.Connection[Any], rollout: int, fenced: bool) -> None:
    """Record that the old structure is set aside, or back. One write, meant for the transaction that renames it."""
    conn.execute(
        "UPDATE zdm.module_migrations SET fenced_at = CASE WHEN %s THEN coalesce(fenced_at, clock_timestamp()) END WHERE id = %s",
        [fenced, rollout],
    )


def set_paused(conn: psycopg.Connection[Any], rollout: int, paused: bool) -> None:
    """Ask long work to wait, or to go on. One write, in the caller's transaction."""
    conn.execute(
        "UPDATE zdm.module_migrations SET paused = %s WHERE id = %s AND paused <> %s",
        [paused, rollout, paused],
    )


def is_paused(conn: psycopg.Connection[Any], rollout: int) -> bool:
    """Whether somebody asked long work to wait. Cheap: one row by its key."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT paused FROM zdm.module_migrations WHERE id = %s", [rollout])
        row = cursor.fetchone()
    return row is not None and bool(row[0])


# What is done to a table is done to all that inherits from it.
_HOLDS = """
WITH RECURSIVE self (oid) AS (
  SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = %(schema)s AND c.relname = %(name)s
), above (oid) AS (
  SELECT oid FROM self UNION SELECT h.inhparent FROM above a JOIN pg_catalog.pg_inherits h ON h.inhrelid = a.oid
), below (oid) AS (
  SELECT oid FROM self UNION SELECT h.inhrelid FROM below b JOIN pg_catalog.pg_inherits h ON h.inhparent = b.oid
)
SELECT DISTINCT rollout FROM zdm.rollout_tables
WHERE active AND (schema_name = %(schema)s AND table_name = %(name)s
  OR table_oid IN (SELECT oid FROM above UNION SELECT oid FROM below))
"""


def conflicts(
    conn: psycopg.Connection[Any], tables: Iterable[QualifiedName]
) -> list[tuple[QualifiedName, Rollout]]:
    """Those of `tables` that a rollout under way changes, each with that rollout; by a parent or child of theirs as well."""
    found: list[tuple[QualifiedName, Rollout]] = []
    with conn.cursor(row_factory=tuple_row) as cursor:
        for table in tables:
            cursor.execute(_HOLDS, {"schema": table.schema_, "name": table.name})
            found += [(table, get(conn, row[0])) for row in cursor.fetchall()]
    return found


def _one(conn: psycopg.Connection[Any], condition: sql.Composable, values: list[object]) -> Rollout | None:
    with conn.cursor(row_factory=class_row(Rollout)) as cursor:
        cursor.execute(_SELECT + condition, values)
        return cursor.fetchone()


def _jsonb(plan: Plan) -> Jsonb:
    return Jsonb(plan.model_dump(mode="json"))


def _store_contents(conn: psycopg.Connection[Any], rollout: int, plan: Plan) -> None:
    tables: dict[QualifiedName, int | None] = {}
    for mapping in plan.mappings:
        tables[mapping.table] = mapping.oid
        tables.setdefault(qualified(mapping.table.schema_, mapping.final_name), None)
    for rows in plan.row_mappings:
        for side in (rows.old, rows.new, *((rows.parent,) if rows.parent is not None else ())):
            tables.setdefault(side.table, side.oid or None)
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO zdm.migration_steps (rollout, step, position, phase, title, action, undo)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    rollout,
                    step.id,
                    position,
                    step.phase.value,
                    step.title,
                    Jsonb(step.action.model_dump(mode="json")),
                    Jsonb([action.model_dump(mode="json") for action in step.undo]),
                )
                for position, step in enumerate(plan.steps, start=1)
            ],
        )
        cursor.executemany(
            "INSERT INTO zdm.rollout_tables (rollout, schema_name, table_name, table_oid) VALUES (%s, %s, %s, %s)",
            [(rollout, table.schema_, table.name, oid) for table, oid in tables.items()],
        )


@contextmanager
def _translated() -> Iterator[None]:
    """The refusals of the trigger ``legal_move``, in zdm's own words."""
    try:
        yield
    except psycopg.errors.CheckViolation as error:
        if error.diag.constraint_name != "legal_move":
            raise
        detail = f" {error.diag.message_detail}" if error.diag.message_detail else ""
        raise IllegalMove(f"Refused: {error.diag.message_primary}.{detail}") from error
    except psycopg.errors.UniqueViolation as error:
        if error.diag.constraint_name != "rollout_tables_active":
            raise
        raise Busy(f"Refused: {error.diag.message_primary}.", remedy=error.diag.message_hint or "") from error
