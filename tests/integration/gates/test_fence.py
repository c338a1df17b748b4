"""The fence on a real server: the old version is gone, the new one works on, and everything comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
import pytest

from tests.integration.gates.sample import SETUP, mapping, plan, session
from tests.support.servers import Database
from zdm.db.session import Session, fetch_value, transaction
from zdm.model.mapping import Authority, Expose, TableMapping, ViewColumn
from zdm.model.names import qualified
from zdm.model.plan import Plan
from zdm.sql.fence import (
    FencePart,
    effective,
    fenced_columns,
    is_fenceable,
    lift_fence,
    lift_statements,
    obstacles,
    raise_fence,
    standing,
)


@pytest.fixture
def conn(database: Database) -> Iterator[Session]:
    database.execute(SETUP)
    with session(database.dsn) as opened:
        yield opened


@pytest.fixture
def planned(database: Database, conn: Session) -> Plan:
    return plan(mapping(database.value("SELECT 'public.orders'::regclass::oid::bigint")))


def install(of: TableMapping, authority: Authority) -> Sequence[str]:
    """Stands for the sync functions: something that needs the names of after the part."""
    names = ", ".join(f'"{column.name}"' for group in of.groups for column in group.old)
    return [f"DO $$ BEGIN PERFORM {names} FROM {of.table} LIMIT 1; END $$"]


def run(conn: Session, parts: Sequence[FencePart]) -> int:
    """As the engine runs them: what is done already is skipped."""
    ran = 0
    for part in parts:
        if fetch_value(conn, part.done_when):
            continue
        with transaction(conn):
            for lock in part.action.locks:
                conn.execute(f"LOCK TABLE {lock.table} IN {lock.mode.sql} MODE".encode())
            for statement in part.action.statements:
                conn.execute(statement.encode())
        ran += 1
    return ran


def columns(database: Database, schema: str, table: str) -> list[str]:
    rows = database.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s "
        "ORDER BY ordinal_position",
        schema,
        table,
    )
    return [row[0] for row in rows]


def test_what_only_the_old_version_names_is_fenced() -> None:
    assert fenced_columns(mapping()) == ("amount", "note", "gone")


def test_with_exposed_columns_what_the_new_version_shows_keeps_its_name() -> None:
    exposed = mapping().model_copy(update={"expose": Expose.COLUMNS})
    assert fenced_columns(exposed) == ("amount", "gone")


def test_the_mapping_follows() -> None:
    new = effective(mapping(), fenced=True)
    (group,) = new.groups
    assert group.old[0].name == "_zdm_fenced_amount"
    assert group.reads_of_up == ("_zdm_fenced_amount",)
    assert group.reads_of_down == ("_zdm_amount",)
    assert [c.name for c in new.old_columns] == ["id", "amount", "note", "gone"]
    assert [c.physical for c in new.new_columns] == ["id", "_zdm_amount", "_zdm_fenced_note"]
    assert effective(mapping(), fenced=False) == mapping()


def test_the_old_version_is_gone_and_the_new_one_works_on(
    database: Database, conn: Session, planned: Plan
) -> None:
    before = columns(database, "public", "orders")
    run(conn, raise_fence(planned, Authority.NEW, install))
    assert fetch_value(conn, standing(planned))
    for statement in (
        "SELECT amount FROM public.orders",
        "SELECT gone FROM public.orders",
        "UPDATE public.orders SET note = ''",
        "SELECT * FROM public_before_widen.orders",
    ):
        with pytest.raises((psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable)):
            database.execute(statement)
    assert database.value("SELECT sum(amount) FROM public_widen.orders") == 50500
    assert database.value("SELECT remark FROM public_widen.orders WHERE id = 7") == "n7"
    assert database.value("SELECT count(note) FROM _zdm_fenced_public_before_widen.orders") == 100

    run(conn, lift_fence(planned, Authority.NEW, install))
    assert not fetch_value(conn, standing(planned))
    assert columns(database, "public", "orders") == before
    assert database.value("SELECT sum(amount) FROM public_before_widen.orders") == 50500


def test_a_prepared_statement_of_the_old_version_fails_at_once(
    database: Database, conn: Session, planned: Plan
) -> None:
    old = database.connect(autocommit=True)
    old.execute("PREPARE p AS SELECT count(amount) FROM public_before_widen.orders")
    old.execute("EXECUTE p")
    run(conn, raise_fence(planned, Authority.NEW, install))
    with pytest.raises(
        (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)
    ):
        old.execute("EXECUTE p")
    run(conn, lift_fence(planned, Authority.NEW, install))
    assert old.execute("EXECUTE p").fetchone() == (100,)


def test_repeatable_from_the_middle(database: Database, conn: Session, planned: Plan) -> None:
    parts = raise_fence(planned, Authority.NEW, install)
    assert run(conn, parts[:1]) == 1
    assert not fetch_value(conn, standing(planned))
    assert run(conn, parts) == 1
    assert run(conn, parts) == 0
    assert fetch_value(conn, standing(planned))
    down = lift_fence(planned, Authority.NEW, install)
    assert run(conn, down[:1]) == 1
    assert not fetch_value(conn, standing(planned))
    assert run(conn, down) == 1
    assert run(conn, down) == 0


def test_a_swap_lifts_within_its_own_transaction(database: Database, conn: Session, planned: Plan) -> None:
    run(conn, raise_fence(planned, Authority.NEW, install))
    with transaction(conn):
        for statement in lift_statements(planned.mappings[0]):
            conn.execute(statement.encode())
        conn.execute("DROP SCHEMA _zdm_fenced_public_before_widen CASCADE")
        conn.execute("ALTER TABLE public.orders DROP COLUMN gone")
    assert "gone" not in columns(database, "public", "orders")
    assert "note" in columns(database, "public", "orders")


@pytest.mark.parametrize("change", [{"final_name": "purchases"}, {"dropped_in_new": True}])
def test_a_table_whose_name_goes_is_set_aside(
    database: Database, conn: Session, planned: Plan, change: dict[str, object]
) -> None:
    changed = planned.mappings[0].model_copy(update=change)
    renamed = plan(changed, old_schema="")
    run(conn, raise_fence(renamed, Authority.NEW, install))
    with pytest.raises(psycopg.errors.UndefinedTable):
        database.execute("SELECT id FROM public.orders")
    assert effective(changed, fenced=True).table == qualified("public", "_zdm_fenced_orders")
    run(conn, lift_fence(renamed, Authority.NEW, install))
    assert database.value("SELECT count(amount) FROM public.orders") == 100


def test_a_name_of_63_bytes_is_kept_apart(database: Database, conn: Session) -> None:
    long = "c" * 63
    database.execute(f"CREATE TABLE public.wide (id int, {long} int, {long[:62]}d int)")
    oid = database.value("SELECT 'public.wide'::regclass::oid::bigint")
    wide = TableMapping(
        table=qualified("public", "wide"),
        final_name="wide",
        oid=oid,
        old_columns=tuple(ViewColumn(physical=c, name=c) for c in ("id", long, long[:62] + "d")),
        new_columns=(ViewColumn(physical="id", name="id"),),
    )
    planned = plan(wide, old_schema="")
    run(conn, raise_fence(planned, Authority.NEW, install))
    assert fetch_value(conn, standing(planned))
    run(conn, lift_fence(planned, Authority.NEW, install))
    assert columns(database, "public", "wide") == ["id", long, long[:62] + "d"]


def test_an_unchanged_table_has_nothing_to_fence() -> None:
    same = tuple(ViewColumn(physical=c, name=c) for c in ("id", "note"))
    plain = TableMapping(
        table=qualified("public", "orders"), final_name="orders", oid=1, old_columns=same, new_columns=same
    )
    assert not is_fenceable(plan(plain, old_schema=""))
    assert raise_fence(plan(plain, old_schema=""), Authority.NEW, install) == ()


def test_obstacles_are_named(database: Database, conn: Session, planned: Plan) -> None:
    assert conn.execute(obstacles(planned).encode()).fetchall() == []
    database.execute(
        """
        CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.note := NEW.amount; RETURN NEW; END$$;
        CREATE TRIGGER touch BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.touch();
        CREATE FUNCTION public.calm() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.id := NEW.id; RETURN NEW; END$$;
        CREATE TRIGGER calm BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.calm();
        CREATE PUBLICATION feed FOR TABLE public.orders;
        """
    )
    found = set(conn.execute(obstacles(planned).encode()).fetchall())
    assert found == {
        ("trigger function", "public.touch()", "amount"),
        ("trigger function", "public.touch()", "note"),
        ("publication", "feed", None),
    }
    database.execute("DROP PUBLICATION feed")
