"""Two tables in the middle of a rollout, one row for each, without an engine; and naive ways to keep them in step."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.servers import Database
from zdm.catalog import install, registry, rollouts
from zdm.db.session import connect, transaction
from zdm.engine.compile import compile_plan
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Phase, Stage, Transaction
from zdm.operations.migration import Migration
from zdm.sql import row_objects, row_sync

MIGRATION = {
    "id": "try_it",
    "operations": [
        {
            "move_columns": {
                "table": "accounts",
                "to": "account_stats",
                "columns": ["statuses", "followers"],
                "key": {"account_id": "id"},
                "create": {
                    "columns": [{"name": "serial", "type": "bigint", "identity": "always"}],
                    "foreign_key": None,
                },
            }
        }
    ],
}

#: What one writes who has not met the interleavings yet: the row as the trigger's statement sees it.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND OLD.id <> NEW.id) THEN
    DELETE FROM account_stats WHERE account_id = OLD.id;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO account_stats (account_id, statuses, followers) VALUES (NEW.id, NEW.statuses, NEW.followers)
    ON CONFLICT (account_id) DO UPDATE SET statuses = EXCLUDED.statuses, followers = EXCLUDED.followers;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION naive();
"""

BAD = """
SELECT count(*) FILTER (WHERE a.id IS NULL), count(*) FILTER (WHERE s.account_id IS NULL {missing}),
       count(*) FILTER (WHERE (a.statuses, a.followers) IS DISTINCT FROM (s.statuses, s.followers)
                        AND a.id IS NOT NULL AND s.account_id IS NOT NULL)
FROM public.accounts a FULL JOIN public.account_stats s ON s.account_id = a.id
"""
"""Zombies, missing and stale rows, by a query that knows nothing of zdm's."""


def staged(
    database: Database, migration: Migration, *, naive: str | None, new_first: bool = False
) -> tuple[Plan, RowMapping, int]:
    """A rollout of which the tables and what mirrors them are there, and nothing else; with its plan, its mapping and its number.

    Parameters
    ----------
    naive: SQL that mirrors instead of zdm's triggers.
    new_first: install what watches the new side before what watches the old one.
    """
    with connect(database.dsn, application_name="stage") as conn:
        install.install(conn)
        plan = compile_plan(conn, migration, "public")
        (mapping,) = plan.row_mappings
        registry.register(conn, migration, migration.canonical())
        with transaction(conn):
            rollout = rollouts.create(conn, plan).id
        for step in plan.of(Phase.PREPARATION):
            if step.stage in (Stage.TABLES, Stage.STRUCTURE) and isinstance(step.action, Transaction):
                with transaction(conn):
                    for statement in step.action.statements:
                        conn.execute(statement.encode())
        if naive is not None:
            conn.execute("SET search_path = public")
            conn.execute(naive.encode())
        sides = row_objects.sides(mapping)
        for side in reversed(sides) if new_first else sides:
            objects = row_sync.install(mapping, rollout, side)
            with transaction(conn):
                for statement in objects.statements if naive is None else objects.functions:
                    conn.execute(statement.encode())
    return plan, mapping, rollout


@dataclass
class Rows:
    """``accounts`` with two counters, an empty ``account_stats``, and what mirrors them.

    Parameters
    ----------
    rows: how many accounts there are.
    naive: mirror as one would without knowing better, in one direction.
    options: further parameters of the operation.
    extra: SQL that is run before the plan is made.
    sync: how they are mirrored.
    """

    database: Database
    rows: int = 300
    naive: bool = False
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    sync: str = "immediate"
    plan: Plan = field(init=False)
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, name text, statuses bigint NOT NULL DEFAULT 0,"
            " followers bigint NOT NULL DEFAULT 0)"
        )
        self.database.execute("CREATE SEQUENCE moved")
        self.database.execute(
            f"INSERT INTO accounts SELECT g, 'a' || g, g, g FROM generate_series(1, {self.rows}) g"
        )
        if self.extra:
            self.database.execute(self.extra)
        operation = {**MIGRATION["operations"][0]["move_columns"], **self.options}  # type: ignore[index]
        migration = Migration.model_validate(
            {"id": "try_it", "sync": self.sync, "operations": [{"move_columns": operation}]}
        )
        self.plan, self.mapping, self.rollout = staged(
            self.database, migration, naive=NAIVE if self.naive else None
        )

    def bad(self) -> tuple[int, int, int]:
        """Zombies, missing and stale rows."""
        needed = self.options.get("rows") == "needed"
        query = BAD.format(missing="AND (a.statuses, a.followers) <> (0, 0)" if needed else "")
        ((zombies, missing, stale),) = self.database.execute(query)
        return zombies, missing, stale
