"""Customers of two regions in the middle of becoming one table, without an engine; and a naive way to keep them in step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.servers import Database
from zdm.catalog import install, registry, rollouts
from zdm.db.session import connect, transaction
from zdm.engine.compile import compile_plan
from zdm.engine.preview import statements_of
from zdm.model.plan import Plan
from zdm.model.step import Phase, Stage, Sync, Transaction
from zdm.operations.migration import Migration
from zdm.sql.rows import Kind
from zdm.verify.rows import verify_rows

#: Told apart in the key, and by a column besides, in which case both tables are numbered by one sequence.
KEYS = {"apart": ["region", "id"], "contested": ["id"]}
REGIONS = ("eu", "us")

#: One direction, as it comes to mind: the row that the trigger sees.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    DELETE FROM customers WHERE id = OLD.id;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO customers (id, region, name) VALUES (NEW.id, right(TG_TABLE_NAME, 2), NEW.name)
    ON CONFLICT (id) DO UPDATE SET region = EXCLUDED.region, name = EXCLUDED.name;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON customers_eu FOR EACH ROW EXECUTE FUNCTION naive();
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON customers_us FOR EACH ROW EXECUTE FUNCTION naive();
"""

BAD = """
SELECT count(*) FROM (SELECT 'eu' AS region, id, name, vat FROM customers_eu UNION ALL SELECT 'us', id, name, vat FROM customers_us) o
FULL JOIN customers n ON (n.region, n.id) = (o.region, o.id) WHERE (n.name, n.vat) IS DISTINCT FROM (o.name, o.vat)
OR n.id IS NULL OR o.id IS NULL
"""
"""Rows of either side that are not what the other one says, by a query that knows nothing of zdm's."""


def migration(keys: str = "apart", **options: Any) -> Migration:
    """The merge, with further parameters of the operation."""
    operation = {
        "tables": [
            {"table": f"customers_{region}", "values": {"region": f"'{region}'"}, "columns": ["name", "vat"]}
            for region in REGIONS
        ],
        "to": "customers",
        "key": KEYS[keys],
        "create": {"columns": [{"name": "note", "type": "text"}]},
        **options,
    }
    return Migration.model_validate({"id": "try_it", "operations": [{"merge_tables": operation}]})


@dataclass
class United:
    """Two tables of customers, each with `rows` of them; and ``customers``, which is empty until `fill`.

    Parameters
    ----------
    naive: mirror as one would without knowing better, in one direction.
    """

    database: Database
    keys: str = "apart"
    rows: int = 3
    naive: bool = False
    extra: str = ""
    plan: Plan = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        run = self.database.execute
        for number, region in enumerate(REGIONS):
            run(
                f"CREATE TABLE customers_{region} (id bigserial PRIMARY KEY, name text, vat text NOT NULL DEFAULT '')"
            )
            first = number * max(100, self.rows) if self.keys == "contested" else 0
            run(
                f"INSERT INTO customers_{region} SELECT {first} + g, '{region}' || g FROM generate_series(1, {self.rows}) g"
            )
            run(f"SELECT setval('customers_{region}_id_seq', {first} + {max(50, self.rows)})")
        if self.keys == "contested":
            run("ALTER TABLE customers_eu ALTER id SET DEFAULT nextval('customers_us_id_seq')")
        if self.extra:
            run(self.extra)
        asked = migration(self.keys)
        with connect(self.database.dsn, application_name="stage") as conn:
            install.install(conn)
            self.plan = compile_plan(conn, asked, "public")
            registry.register(conn, asked, asked.canonical())
            with transaction(conn):
                self.rollout = rollouts.create(conn, self.plan).id
            for step in self.plan.of(Phase.PREPARATION):
                if step.stage is Stage.TABLES and isinstance(step.action, Transaction):
                    with transaction(conn):
                        for statement in step.action.statements:
                            conn.execute(statement.encode())
            if self.naive:
                conn.execute("SET search_path = public")
                conn.execute(NAIVE.encode())
                return
            for step in self.plan.of(Phase.PREPARATION):
                if isinstance(step.action, Sync) and step.action.side:
                    with transaction(conn):
                        for statement in statements_of(step.action, self.plan, self.rollout):
                            conn.execute(statement.encode())

    def fill(self) -> None:
        """Let the triggers make what is not there yet."""
        for region in REGIONS:
            self.database.execute(f"UPDATE customers_{region} SET id = id, name = name || ''")
            self.database.execute(f"UPDATE customers_{region} SET vat = 'v' || id")
        assert self.bad() == 0

    def bad(self) -> int:
        """How many rows disagree."""
        return int(self.database.value(BAD))

    def found(self) -> dict[Kind, int]:
        """What zdm's own verification finds, of both mappings together."""
        counts: dict[Kind, int] = {}
        for mapping in self.plan.row_mappings:
            made = verify_rows(
                lambda: connect(self.database.dsn, application_name="found"), mapping, self.rollout
            )
            for kind, count in made.counts.items():
                counts[kind] = counts.get(kind, 0) + count
        return counts

    def agreed(self) -> None:
        """Nothing disagrees, by either."""
        assert (self.bad(), self.found()) == (0, {})

    def failures(self) -> list[tuple[Any, ...]]:
        """The keys that are recorded, with the table."""
        return self.database.execute(
            "SELECT table_oid::regclass::text, key ->> 'id', sqlstate FROM zdm.sync_failures ORDER BY 1, 2"
        )
