"""What single partitions, and children of inheritance, have of their own on replaced columns is theirs afterwards, and after a rollback."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.acceptance.test_dump import MIGRATION, advance, another
from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.dumps import dump
from tests.support.servers import Database, Server
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration

PATIENT = EngineSettings(workers=1, lock_budget=timedelta(milliseconds=500))

#: The old way to have partitions: keys, references and ranges are each child's own.
TREE = """
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE public.owners (id int PRIMARY KEY);
CREATE TABLE public.event (id {id}, owner_id int, amount {id} NOT NULL DEFAULT 0, at date NOT NULL);
CREATE TABLE public.event_1 (id {id} PRIMARY KEY, CHECK (at < '2025-01-01'), CONSTRAINT range CHECK (id > 0 AND id < 100000))
  INHERITS (public.event);
CREATE TABLE public.event_2 (LIKE public.event INCLUDING ALL, CONSTRAINT twice UNIQUE (id, at), CHECK (at >= '2025-01-01'));
ALTER TABLE public.event_2 INHERIT public.event;
CREATE TABLE public.event_2b (extra text, amount {id} NOT NULL, at date NOT NULL, CONSTRAINT "to itself" FOREIGN KEY (id) REFERENCES public.event_1 (id) ON DELETE SET NULL)
  INHERITS (public.event_2);
CREATE TABLE public.note_of (event_id {id} REFERENCES public.event_1 ON DELETE CASCADE DEFERRABLE, text text);
CREATE INDEX event_1_amount ON public.event_1 (amount DESC) INCLUDE (at) WHERE amount > 3;
CREATE UNIQUE INDEX event_2b_expr ON public.event_2b ((amount * 2), id);
CREATE INDEX event_2_hash ON public.event_2 USING hash (id);
CREATE STATISTICS public.pairs (dependencies) ON id, amount FROM public.event_1;
ALTER TABLE public.event_1 CLUSTER ON event_1_pkey;
ALTER TABLE public.event_1 REPLICA IDENTITY USING INDEX event_1_pkey;
COMMENT ON COLUMN public.event_1.amount IS 'of the first';
COMMENT ON INDEX public.event_1_amount IS 'sorted';
COMMENT ON CONSTRAINT event_1_pkey ON public.event_1 IS 'the key';
COMMENT ON CONSTRAINT range ON public.event_1 IS 'narrow';
GRANT SELECT (id) ON public.event_2 TO PUBLIC;
CREATE POLICY mine ON public.event_2 USING (amount > 0);
CREATE TRIGGER noted AFTER UPDATE OF amount ON public.event_1 FOR EACH ROW WHEN (NEW.amount > 3) EXECUTE FUNCTION public.note();
CREATE VIEW public.first AS SELECT id, amount FROM public.event_1;
CREATE RULE gone AS ON DELETE TO public.event_2 WHERE OLD.amount = 5 DO ALSO DELETE FROM public.owners WHERE id = OLD.owner_id;
"""
OPERATIONS: tuple[dict[str, object], ...] = (
    {"change_type": {"table": "event", "column": "id", "to": "bigint"}},
    {"change_type": {"table": "event", "column": "amount", "to": "bigint"}},
    {"change_type": {"table": "note_of", "column": "event_id", "to": "bigint"}},
)
EVENTS = """
INSERT INTO event_1 SELECT g, 1, g, '2024-05-01' FROM generate_series(1, 200) g;
INSERT INTO event_2 SELECT g, 1, g, '2025-05-01' FROM generate_series(1, 200) g;
INSERT INTO event_2b SELECT g, 1, g, '2025-05-01', 'x' FROM generate_series(1, 200) g;
INSERT INTO note_of SELECT g, 'n' FROM generate_series(1, 200) g;
"""


@on_all_versions
def test_what_children_have_of_their_own(server: Server, database: Database) -> None:
    with another(server) as wanted:
        wanted.execute(TREE.format(id="bigint"))
        expected = dump(wanted)
    scenario = Scenario(
        setup=TREE.format(id="int") + EVENTS,
        operations=OPERATIONS,
        old_writes=(
            "INSERT INTO event_1 (id, amount, at) VALUES ({n}, {n}, '2024-06-01') ON CONFLICT (id) DO UPDATE SET amount = 8",
            "INSERT INTO event_1 (id, amount, at) VALUES ({n} % 300 + 1, 1, '2024-06-01') ON CONFLICT (id) DO UPDATE SET amount = 9",
            "INSERT INTO event_2b (id, amount, at) VALUES (NULL, {n}, '2025-06-01')",
            "UPDATE event SET amount = amount + 1 WHERE id = {n} % 300 + 1 AND at < '2025-01-01'",
            "DELETE FROM event_1 WHERE id = {n} - 40",
        ),
        new_writes=(
            "INSERT INTO event (id, amount, at) VALUES ({n}, {n}, '2025-06-01')",
            "UPDATE event SET amount = amount + 3 WHERE id = {n} % 300 + 1 AND at < '2025-01-01'",
            "DELETE FROM event WHERE id = {n} - 40",
        ),
    )
    migration = Migration.model_validate(
        {"id": "try_it", "operations": list(OPERATIONS), "gates": OPEN_GATES, "dependents": "recreate"}
    )
    rollout = Rollout(database, scenario, given=migration, settings=PATIENT)
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    rollout.engine().rollback("try_it")
    assert rollout.dump() == rollout.before
    rollout.advance_to(State.SWITCHED_OVER, restart=True)
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    assert dump(database) == expected


PARTED = """
CREATE TABLE public.owners (id {id} PRIMARY KEY);
CREATE TABLE public.m (id {id} NOT NULL, day int NOT NULL, owner_id {id}, label text) PARTITION BY RANGE (day);
CREATE TABLE public.m_1 PARTITION OF public.m FOR VALUES FROM (0) TO (10);
CREATE TABLE public.m_2 PARTITION OF public.m FOR VALUES FROM (10) TO (20) PARTITION BY LIST (day);
CREATE TABLE public.m_2_a PARTITION OF public.m_2 DEFAULT;
CREATE INDEX m_label ON public.m (label, id);
ALTER TABLE public.m_1 ADD PRIMARY KEY (id);
ALTER TABLE public.m_1 ADD CONSTRAINT own CHECK (id < 100000);
ALTER TABLE public.m_1 ADD CONSTRAINT owned FOREIGN KEY (owner_id) REFERENCES public.owners ON DELETE SET NULL;
ALTER TABLE public.m_2 ADD UNIQUE (id, day);
ALTER TABLE public.m_2 ADD PRIMARY KEY (day, id);
ALTER TABLE public.m_2_a REPLICA IDENTITY USING INDEX m_2_a_pkey;
CREATE INDEX m_2_owner ON public.m_2 (owner_id);
CREATE INDEX m_2_a_id ON public.m_2_a (id);
CREATE TABLE public.n (m_id {id} REFERENCES public.m_1, id int, m_day int, FOREIGN KEY (id, m_day) REFERENCES public.m_2 (id, day));
CREATE TABLE public.p (owner_id int REFERENCES public.owners ON UPDATE CASCADE, day int) PARTITION BY RANGE (day);
CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (day);
CREATE TABLE public.p_2_a PARTITION OF public.p_2 DEFAULT;
COMMENT ON CONSTRAINT p_owner_id_fkey ON public.p IS 'not named by the migration';
COMMENT ON COLUMN public.m_2_a.id IS 'deep';
GRANT SELECT (id) ON public.m_1 TO PUBLIC;
"""


@on_all_versions
def test_what_partitions_have_of_their_own(server: Server, database: Database) -> None:
    """References both ways, and an index of a partition that has partitions itself."""
    with another(server) as wanted:
        wanted.execute(PARTED.format(id="bigint"))
        expected = dump(wanted)
    database.execute(PARTED.format(id="int"))
    database.execute(
        "INSERT INTO owners SELECT generate_series(1, 9); INSERT INTO m SELECT g, g % 20, g % 9 + 1, 'l' FROM generate_series(1, 90) g;"
        "INSERT INTO n SELECT id, 1 FROM m_1; INSERT INTO p SELECT g % 9 + 1, g % 20 FROM generate_series(1, 90) g"
    )
    before = dump(database)
    engine = Engine(database.dsn, settings=PATIENT)
    engine.init()
    operations = [
        {"change_type": {"table": table, "column": column, "to": "bigint"}}
        for table, column in (("owners", "id"), ("m", "id"), ("m", "owner_id"), ("n", "m_id"))
    ]
    migration = Migration.model_validate({**MIGRATION, "operations": operations})
    advance(engine, migration, State.SWITCHED_OVER)
    database.execute("DELETE FROM p WHERE owner_id = 3; DELETE FROM public_widen.owners WHERE id = 3")
    assert database.value("SELECT count(*) FROM public_widen.m WHERE owner_id = 3 AND day < 10") == 0
    engine.rollback("widen")
    assert dump(database) == before
    advance(engine, migration, State.COMPLETED)
    assert dump(database) == expected
    assert database.execute("SELECT conname FROM pg_constraint WHERE conname ~ '^_zdm'") == []
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute("INSERT INTO p VALUES (1000, 11)")


KEYED = """
CREATE SCHEMA parts;
CREATE TABLE public.e (id {id} GENERATED BY DEFAULT AS IDENTITY, day int NOT NULL, parent_id {id}, parent_day int, label text,
  CONSTRAINT "E key" PRIMARY KEY (id, day) INCLUDE (label) WITH (fillfactor = 80)) PARTITION BY RANGE (day);
CREATE TABLE public.e_1 PARTITION OF public.e FOR VALUES FROM (0) TO (10);
CREATE TABLE parts.e_2 (label text, gone int, day int NOT NULL, id {id} NOT NULL, parent_day int, parent_id {id});
ALTER TABLE parts.e_2 DROP COLUMN gone;
ALTER TABLE parts.e_2 ADD CONSTRAINT mine PRIMARY KEY (id, day) INCLUDE (label) WITH (fillfactor = 80);
ALTER TABLE public.e ATTACH PARTITION parts.e_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE public.e_3 PARTITION OF public.e FOR VALUES FROM (20) TO (30) PARTITION BY LIST (day);
CREATE TABLE public.e_3_a PARTITION OF public.e_3 DEFAULT;
CREATE INDEX e_label ON public.e (label, id);
ALTER TABLE public.e ADD CONSTRAINT within FOREIGN KEY (parent_id, parent_day) REFERENCES public.e ON DELETE CASCADE;
CREATE TABLE public.note (e_id {id}, e_day int, text text,
  CONSTRAINT noted FOREIGN KEY (e_day, e_id) REFERENCES public.e (day, id) ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE);
CREATE TABLE public.small (e_id int, e_day int, CONSTRAINT old FOREIGN KEY (e_id, e_day) REFERENCES public.e_1);
CREATE TABLE public.meta (e_id {id} NOT NULL, e_day int NOT NULL, PRIMARY KEY (e_id, e_day),
  CONSTRAINT of FOREIGN KEY (e_id, e_day) REFERENCES public.e) PARTITION BY RANGE (e_day);
CREATE TABLE public.meta_1 PARTITION OF public.meta FOR VALUES FROM (0) TO (20);
CREATE TABLE public.meta_2 PARTITION OF public.meta DEFAULT;
COMMENT ON CONSTRAINT "E key" ON public.e IS 'of all';
COMMENT ON CONSTRAINT mine ON parts.e_2 IS 'of one';
COMMENT ON CONSTRAINT of ON public.meta IS 'of each';
COMMENT ON CONSTRAINT noted ON public.note IS 'of the note';
COMMENT ON INDEX public."E key" IS 'sorted';
ALTER TABLE public.e REPLICA IDENTITY USING INDEX "E key";
ALTER TABLE public.e_1 REPLICA IDENTITY USING INDEX e_1_pkey;
ALTER TABLE public.e_3_a CLUSTER ON e_3_a_pkey;
"""


@on_all_versions
def test_the_key_of_a_partitioned_table(server: Server, database: Database) -> None:
    """With partitions that come in every phase, and foreign keys to it of itself, of tables and of a partitioned one."""
    more = "CREATE TABLE public.e_{n} PARTITION OF public.e FOR VALUES FROM ({n}0) TO ({n}9);"
    with another(server) as wanted:
        wanted.execute(KEYED.format(id="bigint") + more.format(n=4) + more.format(n=5))
        expected = dump(wanted)
    scenario = Scenario(
        setup=KEYED.format(id="int")
        # Several tables are locked in the swap, for no longer than half of the time after which the server looks for deadlocks.
        + "DO $do$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = %L', current_database(), '2s'); END $do$;"
        "INSERT INTO e (day, label) SELECT g % 30, 'l' FROM generate_series(1, 300) g;"
        "UPDATE e SET parent_id = id - 30, parent_day = day WHERE id > 30;"
        "INSERT INTO note SELECT id, day, 'n' FROM e; INSERT INTO small SELECT id, day FROM e_1; INSERT INTO meta SELECT id, day FROM e;",
        operations=tuple(
            {"change_type": {"table": table, "column": column, "to": "bigint"}}
            for table, column in (("e", "id"), ("e", "parent_id"), ("note", "e_id"), ("meta", "e_id"))
        ),
        old_writes=(
            "INSERT INTO e (id, day, label) VALUES ({n}, {n} % 30, 'o') ON CONFLICT (id, day) DO UPDATE SET label = 'again'",
            "INSERT INTO e (day, label) VALUES ({n} % 30, 'o')",
            "UPDATE e SET day = ({n} * 7) % 30 WHERE id = {n} - 20",
            "DELETE FROM e WHERE id = {n} - 40",
        ),
        new_writes=(
            "INSERT INTO e (day, label) VALUES ({n} % 30, 'n')",
            "UPDATE e SET id = id + 100000 WHERE id = {n} - 30",
            "DELETE FROM e WHERE id = {n} - 50",
        ),
    )
    rollout = Rollout(database, scenario, settings=PATIENT)
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    rollout.execute_new(
        "INSERT INTO e (id, day) VALUES (1, 1) ON CONFLICT (id, day) DO UPDATE SET label = 'met'"
    )
    rollout.engine().rollback("try_it")
    assert rollout.dump() == rollout.before
    database.execute(more.format(n=4))
    rollout.advance_to(State.SWITCHED_OVER, restart=True)
    database.execute(more.format(n=5))
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    assert dump(database) == expected
    rest = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND NOT convalidated"
    assert database.value(rest) == 0
