"""Every statement and every kind of parent, one after the other: what references follow, what is refused, and what is told."""

from __future__ import annotations

import psycopg
import pytest

from tests.conformance.harness import Rollout
from tests.integration.rows.reference_stage import BAD, OPERATION, Goods, kept
from tests.support.servers import Database
from tests.support.versions import on_all_versions_at_length
from zdm.backfill.sweep import BadData
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration
from zdm.sql.rows import Kind
from zdm.verify.run import verify


@on_all_versions_at_length
def test_everything_that_can_be_written(database: Database) -> None:
    goods = Goods(
        database,
        options={
            "reference": {"columns": {"kind_id": "id"}, "on_delete": "set null", "on_update": "cascade"}
        },
    )
    goods.fill()
    keys = database.execute("SELECT shop, name, id FROM kinds ORDER BY id")
    goods.fill()
    assert database.execute("SELECT shop, name, id FROM kinds ORDER BY id") == keys
    in_shop = "(SELECT id FROM kinds WHERE shop = {} AND name = '{}')"
    for statement, good, expected in (
        ("INSERT INTO goods VALUES (100, 1, 'a')", 100, "a"),
        ("INSERT INTO goods VALUES (101, 1, NULL)", 101, None),
        ("UPDATE goods SET kind = 'a' WHERE id = 100", 100, "a"),
        ("UPDATE goods SET price = 5 WHERE id = 100", 100, "a"),
        ("UPDATE goods SET shop = 0 WHERE id = 100", 100, "a"),
        ("UPDATE goods SET shop = 1 WHERE id = 100", 100, "a"),
        ("UPDATE goods SET id = 200 WHERE id = 100", 200, "a"),
        (
            "INSERT INTO goods VALUES (200, 1, 'b') ON CONFLICT (id) DO UPDATE SET kind = EXCLUDED.kind",
            200,
            "b",
        ),
        ("INSERT INTO goods VALUES (200, 1, 'c') ON CONFLICT DO NOTHING", 200, "b"),
        ("UPDATE kinds SET name = 'renamed' WHERE shop = 0 AND name = 'k2'", 2, "renamed"),
        ("UPDATE kinds SET id = 5000 WHERE name = 'renamed'", 2, "renamed"),
        ("UPDATE kinds SET id = 5001, name = 'again' WHERE name = 'renamed'", 2, "again"),
        (f"UPDATE goods SET kind_id = {in_shop.format(0, 'k0')} WHERE id = 2", 2, "k0"),
        # After the new version wrote it the row follows its parent, and another shop's when it goes there.
        ("UPDATE kinds SET name = 'k00' WHERE shop = 0 AND name = 'k0'", 2, "k00"),
        ("UPDATE goods SET shop = 1 WHERE id = 2", 2, "k00"),
        (f"INSERT INTO goods (id, shop, kind_id) VALUES (102, 1, {in_shop.format(1, 'k1')})", 102, "k1"),
        ("INSERT INTO public_try_it.goods (id, shop, kind_id) VALUES (103, 1, NULL)", 103, None),
        ("UPDATE public_try_it.goods SET kind_id = NULL WHERE id = 4", 4, None),
        (f"UPDATE goods SET kind = 'k1', kind_id = {in_shop.format(1, 'k1')} WHERE id = 101", 101, "k1"),
        (
            (
                "WITH k AS (INSERT INTO kinds (shop, name) VALUES (1, 'one') RETURNING id)"
                " INSERT INTO goods (id, shop, kind_id) SELECT 300, 1, id FROM k"
            ),
            300,
            "one",
        ),
        (
            "WITH k AS (UPDATE kinds SET name = 'two' WHERE name = 'one') UPDATE goods SET price = 9 WHERE id = 300",
            300,
            "two",
        ),
        ("DELETE FROM kinds WHERE shop = 1 AND name = 'k3'", 13, None),
        ("SET session_replication_role = replica; " + kept(10, "r"), 10, "r"),
        ("SET session_replication_role = replica; UPDATE kinds SET name = 'rr' WHERE name = 'r'", 10, "rr"),
        ("DELETE FROM goods WHERE id = 12", 14, "k4"),
        (
            "BEGIN; INSERT INTO goods VALUES (400, 1, 'x'); UPDATE kinds SET name = 'y' WHERE name = 'x'; COMMIT",
            400,
            "y",
        ),
    ):
        database.execute(statement)
        assert goods.kind(good) == expected, statement
        assert goods.bad() == 0, statement
        assert goods.found() == {}, statement
    with (
        psycopg.connect(database.dsn, autocommit=True) as connection,
        connection.cursor().copy("COPY goods (id, shop, kind) FROM STDIN") as copy,
    ):
        copy.write("500\t1\tcopied\n501\t1\t\\N\n502\t1\tcopied\n")
    assert (goods.kind(502), goods.bad()) == ("copied", 0)
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="do not belong together"):
        database.execute(f"UPDATE goods SET kind_id = {in_shop.format(1, 'k1')} WHERE id = 6")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute("UPDATE goods SET kind_id = 99999 WHERE id = 6")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="they disagree"):
        database.execute(f"UPDATE goods SET kind = 'z', kind_id = {in_shop.format(1, 'k2')} WHERE id = 102")
    assert database.execute("SELECT FROM kinds WHERE name = 'z'") == []
    database.execute("TRUNCATE goods")
    assert goods.found() == {}


@on_all_versions_at_length
@pytest.mark.parametrize("action", ["no action", "restrict", "cascade", "set null"])
def test_what_the_end_of_a_parent_does(database: Database, action: str) -> None:
    """What the new version declares; rows that are not filled yet, or have failed, have no parent that could go."""
    reference = {"columns": {"kind_id": "id"}, "on_delete": action}
    goods = Goods(database, options={"reference": reference})
    database.execute("INSERT INTO kinds (shop, name) VALUES (1, 'k1')")
    database.execute("DELETE FROM kinds WHERE name = 'k1'")
    goods.fill()
    database.execute(kept(11, "too long for it"))
    remove = "DELETE FROM kinds WHERE shop = 1 AND name = 'k1'"
    if action in ("no action", "restrict"):
        with pytest.raises((psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation)):
            database.execute(remove)
        assert goods.kind(1) == "k1"
    else:
        database.execute(remove)
        assert goods.kind(1) == (None if action == "set null" else "no row")
    assert goods.kind(11) == "too long for it"
    assert goods.found() == {Kind.FAILED: 1}
    database.execute(kept(11, "k2"))
    assert (goods.bad(), goods.found()) == (0, {})


@on_all_versions_at_length
def test_a_value_that_no_parent_can_hold(database: Database) -> None:
    """The old application's write goes through; the row is recorded, named by the backfill, and heals when it is corrected."""
    goods = Goods(database, extra="UPDATE goods SET kind = 'much too long' WHERE id = 3;")
    with pytest.raises(BadData, match="1 row") as raised:
        goods.fill()
    assert "too long" in str(raised.value)
    assert goods.found() == {Kind.FAILED: 1}
    database.execute(kept(3, "short"))
    goods.fill()
    assert (goods.found(), goods.bad()) == ({}, 0)
    database.execute(kept(4, "once more too long"))
    assert goods.found() == {Kind.FAILED: 1}
    assert database.execute("SELECT kind_id FROM goods WHERE id = 4") == [(None,)]
    ((said,),) = database.execute("SELECT message FROM zdm.sync_failures")
    assert "too long" in said
    database.execute(kept(4, "good"))
    assert (goods.found(), goods.bad()) == ({}, 0)


@on_all_versions_at_length
def test_a_parent_that_exists(database: Database) -> None:
    """Its rows are found and keep what they are; what has no form in it is counted before anything changes."""
    goods = Goods(
        database,
        options={"create": None},
        extra="""
        CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shop int NOT NULL, name varchar(10) NOT NULL,
          note text DEFAULT 'grey', UNIQUE (name, shop));
        INSERT INTO kinds (shop, name, note) VALUES (1, 'k1', 'red'), (7, 'other', 'blue');
        UPDATE goods SET kind = 'much too long a kind' WHERE id = 3;
        """,
    )
    plan = goods.rollout.engine().plan(goods.rollout.migration)
    (found,) = [finding.text for finding in plan.findings if finding.rule == "up-raises"]
    assert "1 of 30 rows of public.goods have no form in public.kinds, for example id=3" in found
    database.execute(kept(3, "short"))
    goods.fill()
    assert (goods.found(), goods.bad()) == ({}, 0)
    assert database.execute("SELECT count(*), min(note) FROM kinds WHERE shop = 1 AND name = 'k1'") == [
        (1, "red")
    ]
    assert database.execute("SELECT name FROM kinds WHERE shop = 7") == [("other",)]


@on_all_versions_at_length
def test_a_lossy_mapping_keeps_rows_with_the_parent_that_the_new_version_renames(database: Database) -> None:
    """`up` of what the parent is called now would be another one."""
    goods = Goods(
        database,
        options={
            "values": {"shop": "shop", "name": "lower(kind)"},
            "columns": [{"column": "kind", "down": "name"}],
            "lossy": True,
        },
    )
    database.execute("UPDATE goods SET kind = upper(kind) WHERE id < 10")
    goods.fill()
    assert goods.found() == {}
    assert goods.kind(1) == "K1"
    number = goods.id_of("k1")
    database.execute("UPDATE kinds SET name = 'Named' WHERE shop = 1 AND name = 'k1'")
    assert database.execute("SELECT DISTINCT kind, kind_id FROM goods WHERE shop = 1 AND id % 5 = 1") == [
        ("Named", number)
    ]
    assert goods.found() == {}
    database.execute("UPDATE goods SET price = 4 WHERE id = 1")
    database.execute("UPDATE kinds SET name = 'Again' WHERE name = 'Named'")
    assert (goods.kind(1), goods.kind(11), goods.found()) == ("Again", "Again", {})
    goods.fill()
    assert (goods.kind(1), goods.found()) == ("Again", {})


def test_an_applications_role_has_no_rights_on_the_parent(database: Database) -> None:
    goods = Goods(database, options={"unused": "remove"})
    database.execute("CREATE ROLE seller; GRANT SELECT, INSERT, UPDATE, DELETE ON goods TO seller")
    try:
        as_seller = "SET ROLE seller; "
        for statement in (
            "INSERT INTO goods VALUES (900, 1, 'sold')",
            kept(1, "sold"),
            kept(2, "far too long for it"),
            "DELETE FROM goods WHERE id = 900",
        ):
            database.execute(as_seller + statement)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute(as_seller + "SELECT FROM kinds")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute(as_seller + f"SELECT zdm.rows_{goods.number}_1_take(g) FROM goods g")
        database.execute(kept(2, "k2"))
        goods.fill()
        assert (goods.bad(), goods.found()) == (0, {})
    finally:
        database.execute("DROP OWNED BY seller; DROP ROLE seller")


def test_what_cannot_be_is_refused_by_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text, sort text NOT NULL, kind_id int);"
        " CREATE TABLE kinds (id int PRIMARY KEY, shop int NOT NULL, name text NOT NULL, UNIQUE (shop, name));"
        " CREATE TABLE uses (kind int REFERENCES kinds ON DELETE CASCADE);"
        " INSERT INTO goods VALUES (1, 1, 'Work', 'x')"
    )

    def refused(**options: object) -> str:
        operation = {key: value for key, value in {**OPERATION, **options}.items() if value is not None}
        migration = Migration.model_validate({"id": "try_it", "operations": [{"normalise": operation}]})
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    create = OPERATION["create"]
    link = {"table": "l", "source": {"good": "id"}, "parent": {"kind": "id"}}
    with pytest.raises(ValueError, match="neither is given"):
        Migration.model_validate({"id": "t", "operations": [{"normalise": {**OPERATION, "reference": None}}]})
    with pytest.raises(ValueError, match="both are given"):
        Migration.model_validate({"id": "t", "operations": [{"normalise": {**OPERATION, "link": link}}]})
    with pytest.raises(ValueError, match="beside not_null the columns are named in `columns`"):
        Migration.model_validate(
            {
                "id": "t",
                "operations": [
                    {"normalise": {**OPERATION, "reference": {"kind_id": "id", "not_null": True}}}
                ],
            }
        )
    assert "already has a column kind_id" in refused(parent="sorts")
    other = {"parent": "sorts", "reference": {"sort_id": "id"}}
    assert "Say with `empty` what it holds" in refused(
        **other, columns=["sort"], values={"shop": "shop", "name": "sort"}
    )
    assert "is kept, and would say the same" in refused(**other, columns=[{"column": "kind", "keep": True}])
    assert "reads price" not in refused(**other, columns=[{"column": "kind", "empty": "sort"}])
    assert "is the same for every row" in refused(**other, columns=[{"column": "kind", "empty": "sort"}])
    never = {"columns": {"sort_id": "id"}, "not_null": True, "on_delete": "set null"}
    assert "would become so when a row" in refused(parent="sorts", reference=never)
    assert "whose primary key is id" in refused(parent="sorts", reference={"sort_id": "name"})
    existing = refused(create=None, reference={"sort_id": "id"}, unused="remove")
    assert "uses_kind_fkey of public.uses does (ON DELETE CASCADE)" in existing
    lower = {"shop": "shop", "name": "lower(kind)"}
    assert "differs in 1 of 1 rows of public.goods (for example id=1)" in refused(
        **other, values=lower, columns=[{"column": "kind", "down": "name"}]
    )
    database.execute("ALTER TABLE goods ADD COLUMN twice int GENERATED ALWAYS AS (shop * 2) STORED")
    assert "'twice' reads the generated column twice" in refused(
        **other, values={"shop": "twice", "name": "kind"}
    )
    assert create


@on_all_versions_at_length
def test_a_parent_that_its_table_makes_otherwise_is_not_taken(database: Database) -> None:
    """A trigger gives it another name, under which nobody would find it again: no row may refer to it."""
    goods = Goods(
        database,
        rows=6,
        options={"create": None},
        extra="CREATE TABLE kinds (id bigserial PRIMARY KEY, shop int NOT NULL, name text NOT NULL, UNIQUE (shop, name));"
        "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := lower(NEW.name); RETURN NEW; END';"
        "CREATE TRIGGER low BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION low();"
        "UPDATE goods SET kind = 'K2' WHERE id = 2; UPDATE goods SET shop = 0, kind = 'k2' WHERE id = 3;",
    )
    with pytest.raises(BadData, match="1 row") as raised:
        goods.fill()
    assert "duplicate key" in str(raised.value)
    database.execute("INSERT INTO goods VALUES (100, 1, 'ABC'), (102, 1, 'ABC')")
    database.execute("INSERT INTO goods VALUES (101, 1, 'abc')")
    assert database.execute("SELECT id FROM goods WHERE kind_id IS NULL ORDER BY id") == [
        (2,),
        (100,),
        (102,),
    ]
    assert goods.found() == {Kind.FAILED: 3}
    said = database.execute("SELECT message FROM zdm.sync_failures WHERE key->>'id' = '100'")
    assert said == [
        ("shop, name of a new row of public.kinds would be another value: a trigger or its type changes it",)
    ]
    database.execute("UPDATE goods SET kind = lower(kind)")
    assert (goods.bad(), goods.found()) == (0, {})


SHARED = (
    "CREATE TABLE kinds (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, note text);"
    "CREATE TABLE goods (id int PRIMARY KEY, one text, two text);"
    "INSERT INTO goods SELECT g, 'k' || g % 5, 'k' || g % 3 FROM generate_series(1, 30) g;"
)


def by(column: str, **options: object) -> dict[str, object]:
    """A reference to a kind that exists."""
    reference = {"columns": {f"{column}_id": "id"}, "on_delete": "set null"}
    operation = {"table": "goods", "columns": [column], "parent": "kinds", "values": {"name": column}}
    return {"normalise": {**operation, "reference": reference, **options}}


@on_all_versions_at_length
def test_two_references_to_one_table(database: Database) -> None:
    """Both follow; but neither removes what the other may have."""
    link = {"table": "pairs", "source": {"good": "id"}, "parent": {"kind": "id"}}
    database.execute(SHARED)
    with connect(database.dsn, application_name="stage") as conn:
        for first, second in (
            (by("one", unused="remove"), by("two")),
            (by("one"), by("two", unused="remove")),
            (by("one", unused="remove"), by("two", reference=None, link=link)),
        ):
            migration = Migration.model_validate({"id": "no", "operations": [first, second]})
            with pytest.raises(BadInput, match="parents of another operation of this migration as well"):
                compile_plan(conn, migration, "public")
    rollout = Rollout(database, Scenario(setup="", operations=(by("one"), by("two"))))
    rollout.advance_to(State.MIGRATED)
    database.execute("UPDATE goods SET one = 'new', two = 'newer' WHERE id = 1")
    database.execute("UPDATE goods SET two = 'new' WHERE id = 2")
    database.execute("UPDATE kinds SET name = 'renamed' WHERE name = 'new'")
    database.execute("DELETE FROM kinds WHERE name = 'newer'")
    assert database.execute("SELECT one, two FROM goods WHERE id < 3 ORDER BY id") == [
        ("renamed", None),
        ("k2", "renamed"),
    ]
    mapping = next(m for m in rollout.engine().plan(rollout.migration).mappings if m.groups)
    found = verify(lambda: connect(database.dsn, application_name="stage"), mapping)
    assert dict(found.counts) == {}


@on_all_versions_at_length
def test_two_references_to_a_table_that_the_first_makes(database: Database) -> None:
    """Authors and committers are people of one table. What a rollback keeps of it is what neither has."""
    kinds: dict[str, object] = {
        "columns": [{"name": "id", "type": "bigint", "identity": "always"}, {"name": "name", "type": "text"}],
        "primary_key": ["id"],
    }
    operations = (by("one", create=kinds), by("two"))
    database.execute(SHARED)
    database.execute("DROP TABLE kinds")
    refused = (
        (
            by("two", values={"id": "two", "name": "two"}),
            "an earlier operation of this migration finds by name",
        ),
        (by("two", reference={"two_id": "name"}), "whose primary key is id"),
        (by("two", unused="remove"), "parents of another operation of this migration as well"),
        (by("two", create=kinds), "by another operation of this migration"),
    )
    with connect(database.dsn, application_name="stage") as conn:
        for second, said in refused:
            migration = Migration.model_validate({"id": "no", "operations": [operations[0], second]})
            with pytest.raises(BadInput, match=said):
                compile_plan(conn, migration, "public")
    rollout = Rollout(database, Scenario(setup="", operations=operations))
    rollout.advance_to(State.PREPARED)
    database.execute("UPDATE goods SET one = 'early' WHERE id = 3")
    rollout.advance_to(State.MIGRATED)
    database.execute("UPDATE goods SET two = 'early' WHERE id = 4")
    database.execute("UPDATE kinds SET name = 'renamed' WHERE name = 'early'")
    database.execute("UPDATE goods SET two = 'late' WHERE id = 5")
    database.execute("INSERT INTO kinds (name) VALUES ('alone')")
    apart = (
        "SELECT count(*) FROM goods g LEFT JOIN kinds a ON a.id = one_id LEFT JOIN kinds b ON b.id = two_id"
        " WHERE (one, two) IS DISTINCT FROM (a.name, b.name)"
    )
    assert database.value(apart) == 0
    assert database.execute("SELECT one, two FROM goods WHERE id IN (3, 4) ORDER BY id") == [
        ("renamed", "k0"),
        ("k4", "renamed"),
    ]
    rollout.engine().rollback(rollout.migration.id)
    kept = "SELECT new_row ->> 'name', reason FROM zdm.rows_without_old_form ORDER BY 1"
    assert database.execute(kept) == [("alone", "no row of public.goods has it")]
    assert database.value("SELECT to_regclass('kinds')") is None


@on_all_versions_at_length
@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_an_unused_parent_stays_where_its_end_would_take_others_along(
    database: Database, action: str
) -> None:
    """A foreign key that somebody made after the plan."""
    goods = Goods(database, options={"unused": "remove"})
    goods.fill()
    database.execute(f"CREATE TABLE uses (kind bigint REFERENCES kinds ON DELETE {action})")
    database.execute(kept(1, "rare"))
    database.execute("INSERT INTO uses SELECT id FROM kinds WHERE name = 'rare'")
    database.execute(kept(1, "k1"))
    assert database.execute("SELECT name FROM uses JOIN kinds ON id = kind") == [("rare",)]
    database.execute("DROP TABLE uses")
    database.execute(kept(1, "rare"))
    database.execute(kept(1, "k1"))
    assert (goods.bad(), goods.found()) == (0, {})
    assert database.execute("SELECT count(*) FROM kinds WHERE name = 'rare'") == [(0,)]


@on_all_versions_at_length
@pytest.mark.parametrize("first", ["normalise", "change_type"])
def test_a_column_of_the_natural_key_that_the_same_migration_changes(database: Database, first: str) -> None:
    """It is written by its new name, and is there in time for what refers to the parent by it."""
    change = {
        "table": "goods",
        "column": "shop",
        "to": "bigint",
        "up": "shop::bigint",
        "down": "shop::int",
    }
    operations: list[dict[str, object]] = [{"normalise": OPERATION}, {"change_type": change}]
    setup = (
        "CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text, price int NOT NULL DEFAULT 1);"
        "INSERT INTO goods SELECT g, g % 2, 'k' || g % 5 FROM generate_series(1, 30) g;"
    )
    ordered = operations if first == "normalise" else operations[::-1]
    rollout = Rollout(database, Scenario(setup=setup, operations=tuple(ordered)))
    rollout.advance_to(State.MIGRATED)
    mapping = next(m for m in rollout.engine().plan(rollout.migration).mappings if m.groups)
    view = "public_try_it.goods"
    in_shop = "(SELECT id FROM kinds WHERE shop = {} AND name = '{}')"
    for statement, good, expected in (
        (
            f"INSERT INTO {view} (id, shop, kind_id) VALUES (100, 1, {in_shop.format(1, 'k1')})",
            100,
            (1, "k1"),
        ),
        (f"INSERT INTO {view} (id, shop, kind_id) VALUES (101, 1, NULL)", 101, (1, None)),
        (f"UPDATE {view} SET shop = 0, kind_id = {in_shop.format(0, 'k2')} WHERE id = 1", 1, (0, "k2")),
        (f"UPDATE {view} SET shop = 1 WHERE id = 2", 2, (1, "k2")),
        (f"UPDATE {view} SET shop = 7 WHERE id = 4", 4, (7, "k4")),
        ("UPDATE goods SET shop = 9 WHERE id = 5", 5, (9, "k0")),
        ("UPDATE goods SET shop = 9, kind = 'z' WHERE id = 6", 6, (9, "z")),
        ("INSERT INTO goods VALUES (102, 3, 'new')", 102, (3, "new")),
    ):
        database.execute(statement)
        assert database.execute(f"SELECT shop, kind FROM goods WHERE id = {good}") == [expected], statement
        assert database.execute(BAD) == [(0,)], statement
        found = verify(lambda: connect(database.dsn, application_name="stage"), mapping)
        assert dict(found.counts) == {}, statement


@on_all_versions_at_length
@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({}, "NULL, 'b'"),
        ({"where": "kind <> ''"}, "1, ''"),
        (
            {"reference": None, "link": {"table": "l", "source": {"good": "id"}, "parent": {"kind": "id"}}},
            "NULL, 'b'",
        ),
    ],
)
def test_a_value_that_has_no_parent_is_a_loss(
    database: Database, options: dict[str, object], row: str
) -> None:
    """The column goes, and a row without a parent says that it was empty."""
    database.execute(
        "CREATE TABLE goods (id int PRIMARY KEY, shop int, kind text);"
        "INSERT INTO goods VALUES (1, 1, 'a'), (2, 1, NULL), (3, NULL, NULL)"
    )
    operation = {k: v for k, v in {**OPERATION, **options}.items() if v is not None}
    migration = Migration.model_validate({"id": "try_it", "operations": [{"normalise": operation}]})
    lossy = Migration.model_validate(
        {"id": "try_it", "operations": [{"normalise": {**operation, "lossy": True}}]}
    )
    with connect(database.dsn, application_name="stage") as conn:
        compile_plan(conn, migration, "public")
        database.execute(f"INSERT INTO goods VALUES (4, {row})")
        with pytest.raises(BadInput, match=r"differs in 1 of 4 rows of public.goods .for example id=4"):
            compile_plan(conn, migration, "public")
        compile_plan(conn, lossy, "public")
