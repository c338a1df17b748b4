"""What the Alembic environment and the revisions share: running a revision's SQL file, and what surrounds an upgrade."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import psycopg
from alembic import op

from zdm.model.phases import State, machine

SCHEMA: Final = "zdm"

_LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('zdm.catalog', 0))"
_RESTING = frozenset({State.PLANNED, State.COMPLETED, State.ROLLED_BACK})


def run(revision_file: str, direction: Literal["up", "down"]) -> None:
    """Run the SQL file beside a revision, ``<revision>.<direction>.sql``, in the upgrade's transaction."""
    text = Path(revision_file).with_suffix(f".{direction}.sql").read_text(encoding="utf-8")
    driver = op.get_bind().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    # A released file of zdm itself. Through the driver, without parameters: several statements, and % means %.
    driver.execute(text.encode())


def before_upgrade(conn: psycopg.Connection[Any]) -> None:
    """Wait for whoever upgrades right now, and create the schema if it is not there. Inside the caller's transaction."""
    conn.execute(_LOCK)
    # Not IF NOT EXISTS: that needs CREATE on the database even where the schema exists already.
    if conn.execute("SELECT pg_catalog.to_regnamespace('zdm')::pg_catalog.text").fetchone() == (None,):
        conn.execute("CREATE SCHEMA zdm")


def after_upgrade(conn: psycopg.Connection[Any]) -> None:
    """Tell the database the phase machine of phases/*.toml. Inside the caller's transaction; nothing to do after a downgrade."""
    if conn.execute("SELECT pg_catalog.to_regclass('zdm.phase_moves')::pg_catalog.text").fetchone() == (
        None,
    ):
        return
    phases = machine()
    states = [(state.value, phases.phase_of(state), state not in _RESTING) for state in State]
    moves = [(source.value, target.value) for source, target in phases.moves()]
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO zdm.phase_states (state, phase, active) VALUES (%s, %s, %s)
            ON CONFLICT (state) DO UPDATE SET phase = excluded.phase, active = excluded.active
            """,
            states,
        )
        cursor.execute("DELETE FROM zdm.phase_moves")
        cursor.executemany(
            "INSERT INTO zdm.phase_moves (from_state, to_state) VALUES (%s, %s) ON CONFLICT DO NOTHING", moves
        )
        cursor.execute(
            "DELETE FROM zdm.phase_states WHERE state <> ALL (%s)", [[state for state, _, _ in states]]
        )
