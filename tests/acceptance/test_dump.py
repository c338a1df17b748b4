"""A schema after a rollout is the schema that would have been written with the new types in the first place; and after a
rollback it is what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conformance.harness import Abort, Dying
from tests.support.dumps import dump
from tests.support.schemas import PROJECTS, Project
from tests.support.servers import Database, Server
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.operations.migration import Migration

OPEN = {"soak": "0s", "old_version_unused": False, "replication_lag": False, "approvals": 0}

#: Everything that can hang on a column; {amount} and {owner} are the types of two columns.
DENSE = """
CREATE FUNCTION public.fee(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 100';
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.log (what) VALUES (TG_NAME); RETURN NULL; END $$;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $$;
CREATE TABLE public.log (id serial PRIMARY KEY, what text);
CREATE TABLE public.owners (id {owner} PRIMARY KEY, name text);
CREATE TABLE public."Accounts" (
  id serial PRIMARY KEY, amount {amount} NOT NULL DEFAULT 0, owner_id {owner} NOT NULL, label text, touched int NOT NULL DEFAULT 0,
  during tstzrange,
  CONSTRAINT positive CHECK (amount > -1000 AND label <> ''),
  CONSTRAINT one_amount UNIQUE (owner_id, amount) DEFERRABLE,
  CONSTRAINT "to owner" FOREIGN KEY (owner_id) REFERENCES public.owners ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
CREATE UNIQUE INDEX identity_idx ON public."Accounts" (amount, id);
CREATE INDEX expression_idx ON public."Accounts" ((amount * 2) DESC NULLS LAST, label text_pattern_ops) INCLUDE (touched)
  WITH (fillfactor = 70) WHERE amount > 5;
CREATE INDEX hash_idx ON public."Accounts" USING hash (amount);
CREATE INDEX brin_idx ON public."Accounts" USING brin (amount) WITH (pages_per_range = 32);
ALTER TABLE public."Accounts" REPLICA IDENTITY USING INDEX identity_idx;
ALTER TABLE public."Accounts" ALTER amount SET STATISTICS 500, ALTER amount SET (n_distinct = -0.5);
ALTER TABLE public."Accounts" CLUSTER ON identity_idx;
COMMENT ON COLUMN public."Accounts".amount IS 'in cents';
COMMENT ON INDEX public.expression_idx IS 'for the report';
COMMENT ON CONSTRAINT positive ON public."Accounts" IS 'nearly';
GRANT SELECT (amount), UPDATE (amount) ON public."Accounts" TO PUBLIC;
CREATE STATISTICS public.pairs (ndistinct, dependencies) ON amount, owner_id FROM public."Accounts";
CREATE STATISTICS public.doubled ON (amount * 2) FROM public."Accounts";
CREATE STATISTICS public.mixed (mcv) ON (amount * 3), label, owner_id FROM public."Accounts";
ALTER STATISTICS public.pairs SET STATISTICS 300;
COMMENT ON STATISTICS public.pairs IS 'they go together';
CREATE POLICY mine ON public."Accounts" AS RESTRICTIVE FOR UPDATE TO PUBLIC USING (amount >= 0) WITH CHECK (amount < 1000000);
CREATE POLICY listed ON public."Accounts" FOR SELECT
  USING (owner_id IN (SELECT o.id FROM public.owners o WHERE o.name = CURRENT_USER) OR public.fee(amount) > 1);
CREATE POLICY adds ON public."Accounts" FOR INSERT WITH CHECK (amount IS NOT NULL);
CREATE POLICY seen ON public.owners USING (EXISTS (SELECT FROM public."Accounts" a WHERE a.owner_id = owners.id AND a.amount > 0));
COMMENT ON POLICY mine ON public."Accounts" IS 'no debts';
CREATE TRIGGER noted AFTER INSERT OR UPDATE OF amount, label ON public."Accounts" FOR EACH ROW
  WHEN (NEW.amount > 3) EXECUTE FUNCTION public.note('a', 'b c');
CREATE TRIGGER changed AFTER UPDATE ON public."Accounts" FOR EACH ROW
  WHEN (OLD.amount IS DISTINCT FROM NEW.amount) EXECUTE FUNCTION public.note();
CREATE TRIGGER touched BEFORE UPDATE OF amount ON public."Accounts" FOR EACH ROW EXECUTE FUNCTION public.touch();
CREATE TRIGGER each_statement AFTER UPDATE OF amount ON public."Accounts" FOR EACH STATEMENT EXECUTE FUNCTION public.note();
CREATE TRIGGER asleep AFTER UPDATE OF amount ON public."Accounts" FOR EACH ROW EXECUTE FUNCTION public.note();
CREATE TRIGGER always AFTER UPDATE OF amount ON public."Accounts" FOR EACH ROW EXECUTE FUNCTION public.note();
CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE OF amount ON public."Accounts" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  WHEN (NEW.amount <> OLD.amount) EXECUTE FUNCTION public.note();
ALTER TABLE public."Accounts" DISABLE TRIGGER asleep;
ALTER TABLE public."Accounts" ENABLE ALWAYS TRIGGER always;
COMMENT ON TRIGGER noted ON public."Accounts" IS 'for the auditors';
COMMENT ON TRIGGER deferred ON public."Accounts" IS 'at the end';
"""
VIEWS = """
CREATE SCHEMA report;
CREATE VIEW public.rich WITH (security_barrier = true) AS SELECT id, amount, label FROM public."Accounts" WHERE amount > 10
  WITH CASCADED CHECK OPTION;
ALTER VIEW public.rich ALTER amount SET DEFAULT 11;
CREATE VIEW report.totals AS SELECT o.name, sum(r.amount) AS total, public.fee(max(a.amount)) AS fee
  FROM public.rich r JOIN public."Accounts" a USING (id) JOIN public.owners o ON o.id = a.owner_id GROUP BY o.name;
CREATE VIEW report.by_key AS SELECT id, amount, label, count(*) AS n FROM public."Accounts" GROUP BY id;
CREATE MATERIALIZED VIEW report.frozen WITH (fillfactor = 80) AS SELECT t.name, t.total, a.amount AS "Amount"
  FROM report.totals t CROSS JOIN public."Accounts" a;
CREATE UNIQUE INDEX frozen_key ON report.frozen (name, "Amount");
CREATE INDEX frozen_total ON report.frozen ((total * 2) DESC) WHERE "Amount" > 5;
ALTER MATERIALIZED VIEW report.frozen CLUSTER ON frozen_key;
ALTER MATERIALIZED VIEW report.frozen ALTER total SET STATISTICS 400;
CREATE MATERIALIZED VIEW report.empty AS SELECT amount FROM report.by_key WITH NO DATA;
CREATE VIEW public.written AS SELECT id, amount FROM public."Accounts";
CREATE RULE deleted AS ON DELETE TO public.written DO INSTEAD UPDATE public."Accounts" SET amount = 0 WHERE id = OLD.id;
CREATE FUNCTION public.instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER written INSTEAD OF UPDATE ON public.written FOR EACH ROW EXECUTE FUNCTION public.instead();
CREATE VIEW public.other AS SELECT id, label FROM public."Accounts";
COMMENT ON VIEW public.rich IS 'the rich';
COMMENT ON COLUMN public.rich.amount IS 'a lot';
COMMENT ON RULE deleted ON public.written IS 'never really';
COMMENT ON INDEX report.frozen_total IS 'sorted';
COMMENT ON MATERIALIZED VIEW report.frozen IS 'of last night';
GRANT SELECT ON public.rich TO PUBLIC;
GRANT UPDATE (amount) ON public.written TO PUBLIC;
"""
LATER = """
CREATE PUBLICATION listing FOR TABLE public."Accounts" (id, amount, owner_id) WHERE (amount > 0), TABLE public.owners;
"""
VIRTUAL = """
ALTER TABLE public."Accounts" ADD COLUMN doubled bigint GENERATED ALWAYS AS (amount * 2) VIRTUAL;
COMMENT ON COLUMN public."Accounts".doubled IS 'twice';
GRANT SELECT (doubled) ON public."Accounts" TO PUBLIC;
"""
#: The same on a table in partitions of several levels, where the server has it.
PARTED = """
CREATE SCHEMA report;
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.log (what) VALUES (TG_NAME); RETURN NULL; END $$;
CREATE TABLE public.log (id serial PRIMARY KEY, what text);
CREATE TABLE public.m (id int NOT NULL, day int NOT NULL, amount {amount} NOT NULL DEFAULT 0, label text, PRIMARY KEY (id, day),
  CONSTRAINT positive CHECK (amount > -1000)) PARTITION BY RANGE (day);
CREATE TABLE public.m_1 PARTITION OF public.m FOR VALUES FROM (0) TO (10);
CREATE TABLE public.m_2 PARTITION OF public.m FOR VALUES FROM (10) TO (20) PARTITION BY LIST (day);
CREATE TABLE public.m_2_a PARTITION OF public.m_2 DEFAULT;
CREATE INDEX m_amount ON public.m (amount DESC) WHERE amount > 3;
CREATE INDEX m_expr ON public.m ((amount * 2));
ALTER TABLE public.m ALTER amount SET STATISTICS 500;
COMMENT ON COLUMN public.m.amount IS 'in cents';
COMMENT ON INDEX public.m_amount IS 'of amounts';
COMMENT ON CONSTRAINT positive ON public.m IS 'nearly';
GRANT SELECT, UPDATE ON public.m TO PUBLIC;
CREATE STATISTICS public.pairs (ndistinct, dependencies) ON amount, label FROM public.m;
COMMENT ON STATISTICS public.pairs IS 'they go together';
ALTER TABLE public.m ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON public.m FOR UPDATE USING (amount >= 0) WITH CHECK (amount < 1000000);
COMMENT ON POLICY mine ON public.m IS 'no debts';
CREATE TRIGGER noted AFTER INSERT OR UPDATE OF amount ON public.m FOR EACH ROW WHEN (NEW.amount > 3) EXECUTE FUNCTION public.note();
CREATE TRIGGER changed AFTER UPDATE ON public.m FOR EACH ROW WHEN (OLD.amount IS DISTINCT FROM NEW.amount) EXECUTE FUNCTION public.note();
CREATE TRIGGER each AFTER UPDATE OF amount ON public.m FOR EACH STATEMENT EXECUTE FUNCTION public.note();
CREATE CONSTRAINT TRIGGER late AFTER UPDATE OF amount ON public.m DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note();
ALTER TABLE public.m DISABLE TRIGGER changed;
COMMENT ON TRIGGER noted ON public.m IS 'for the auditors';
CREATE VIEW report.big AS SELECT id, amount FROM public.m WHERE amount > 10;
CREATE MATERIALIZED VIEW report.sums AS SELECT day, sum(amount) AS total FROM public.m GROUP BY day;
CREATE UNIQUE INDEX sums_day ON report.sums (day);
GRANT SELECT ON report.big TO PUBLIC;
CREATE PUBLICATION parted FOR TABLE public.m (id, day, amount) WITH (publish_via_partition_root = true);
"""
ROWS = """
INSERT INTO public.owners SELECT g, 'o' || g FROM generate_series(1, 5) g;
INSERT INTO public."Accounts" (amount, owner_id, label) SELECT g, g % 5 + 1, 'l' FROM generate_series(1, 50) g;
TRUNCATE public.log;
"""
MIGRATION: dict[str, Any] = {
    "id": "widen",
    "operations": [{"change_type": {"table": '"Accounts"', "column": "amount", "to": "bigint"}}],
    "gates": OPEN,
    "dependents": "recreate",
}


def dense(database: Database, amount: str, owner: str) -> str:
    found = DENSE + VIEWS
    if database.server.major >= 15:
        found += LATER
    if database.server.major >= 18:
        found += VIRTUAL
    return found.format(amount=amount, owner=owner)


@contextmanager
def another(server: Server) -> Iterator[Database]:
    """A database beside the one under test: what it should become."""
    found = Database(server)
    try:
        yield found
    finally:
        found.drop()


def advance(engine: Engine, migration: Migration, state: State) -> None:
    """Advance, beginning anew if it was rolled back, until the rollout is in `state`."""
    restart = True
    while True:
        result = engine.advance(migration, restart=restart)
        refused = [v for v in result.verdicts if not v.lets_through]
        assert not refused, refused
        if result.state is state:
            return
        restart = False


@on_all_versions
def test_what_hangs_on_a_column_is_on_its_successor_afterwards(server: Server, database: Database) -> None:
    with another(server) as wanted:
        wanted.execute(dense(wanted, "bigint", "int"))
        expected = dump(wanted)
    assert (
        len([line for line in expected if line.startswith(("CREATE VIEW report.", "CREATE MATERIALIZED"))])
        == 4
    )
    database.execute(dense(database, "int", "int"))
    database.execute(ROWS)
    before = dump(database)
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate(MIGRATION)
    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER):
        advance(engine, migration, state)
        engine.rollback("widen")
        assert dump(database) == before, state
    advance(engine, migration, State.SWITCHED_OVER)
    # In cleanup, from which there is no way back, the process dies before each step.
    for step in range(1, 200):
        try:
            result = Engine(database.dsn, reporter=Dying(step)).advance(migration)
        except Abort:
            continue
        assert result.state is State.COMPLETED
        break
    assert dump(database) == expected


@pytest.mark.since(15)  # its row security and its publication's list of columns
def test_what_hangs_on_a_column_of_a_partitioned_table(server: Server, database: Database) -> None:
    with another(server) as wanted:
        wanted.execute(PARTED.format(amount="bigint"))
        expected = dump(wanted)
    database.execute(PARTED.format(amount="int"))
    database.execute("INSERT INTO m SELECT g, g % 20, g, 'l' FROM generate_series(1, 50) g; TRUNCATE log")
    before = dump(database)
    engine = Engine(database.dsn)
    engine.init()
    operations = [{"change_type": {"table": "m", "column": "amount", "to": "bigint"}}]
    migration = Migration.model_validate({**MIGRATION, "operations": operations})
    advance(engine, migration, State.SWITCHED_OVER)
    # Each trigger once for either version, on whatever partition, and never for the backfill.
    assert database.execute("SELECT * FROM log") == []
    database.execute(
        "UPDATE public_widen.m SET amount = 7 WHERE id = 4; UPDATE m SET amount = 8 WHERE id = 14"
    )
    fired = database.execute("SELECT what, count(*) FROM log GROUP BY what ORDER BY what")
    assert fired == [("each", 2), ("late", 2), ("noted", 2)]
    engine.rollback("widen")
    assert dump(database) == before
    advance(engine, migration, State.COMPLETED)
    assert dump(database) == expected


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_the_schema_of_a_public_project(server: Server, database: Database, project: Project) -> None:
    """Each migration is rolled back from another phase, then carried through, on what the one before it has left."""
    database.execute(project.text(0))
    database.execute(project.rows)
    engine = Engine(database.dsn)
    engine.init()
    for number, change in enumerate(project.changes):
        migration = Migration.model_validate(
            {
                "id": change.id,
                "operations": list(change.operations),
                "gates": OPEN,
                "dependents": "recreate",
            }
        )
        before = dump(database)
        advance(engine, migration, (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER)[number])
        engine.rollback(change.id)
        assert dump(database) == before
        advance(engine, migration, State.COMPLETED)
        with another(server) as wanted:
            wanted.execute(project.text(number + 1))
            assert dump(database) == dump(wanted), change.id
