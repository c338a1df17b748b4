"""What each rule promises, as scenes that can be played on the real sync, on a mutilated one, and on a naive one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.integration.sync.stage import Design, Stage, group, new, old
from zdm.model.mapping import Authority, Conflict

# --- designs ----------------------------------------------------------------------------------------------------------

_ROUNDED = group(old("a", down="round({_c})::integer"), new("_c", "a", up="{a}::numeric"))
ROUNDED = Design("id int PRIMARY KEY, a int, o text", (_ROUNDED,))
"""An integer becomes numeric; the way back rounds, so a re-derived value would lose what the new application wrote."""

UNFILLED = Design(
    ROUNDED.columns, ROUNDED.groups, before=("INSERT INTO t VALUES (1, 5, 'x'), (2, NULL, 'x'), (3, 7, 'x')",)
)

TRIMMED = Design(
    "id int PRIMARY KEY, a text, o text",
    (group(old("a", "text", "{_c}"), new("_c", "a", "text", "lower(btrim({a}))", comparison="native")),),
)
"""The way there loses blanks and case: an old value that already fits must be kept."""

PARSED = Design(
    "id int PRIMARY KEY, a text, o text",
    (group(old("a", "text", "{_c}::text"), new("_c", "a", "integer", "{a}::integer", comparison="native")),),
    before=("INSERT INTO t VALUES (1, '5', 'x'), (2, 'bad', 'x')",),
)
"""A text becomes an integer: `up` raises on what is none."""

SPLIT = Design(
    "id int PRIMARY KEY, name text, o text",
    (
        group(
            old("name", "text", "(({_first} || ' '::text) || {_last})"),
            new("_first", "first", "text", "split_part({name}, ' '::text, 1)", comparison="native"),
            new("_last", "last", "text", "split_part({name}, ' '::text, 2)", comparison="native"),
        ),
    ),
    before=("INSERT INTO t VALUES (1, 'Ada Lovelace', 'x')",),
)

PRICED = Design(
    "id int PRIMARY KEY, amount int, currency text, rate int DEFAULT 1",
    (
        group(
            old("amount", down="(btrim({_price}, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ '::text))::integer / {rate}"),
            new("_price", "price", "text", "(({amount} * {rate})::text || {currency})", comparison="native"),
        ),
    ),
    before=("INSERT INTO t VALUES (1, 5, 'EUR', 1)",),
)
"""Both expressions read columns that both versions have."""

ADDED = Design(
    "id int PRIMARY KEY, name text, o text",
    (group(new("slug", "slug", "text", "lower({name})", comparison="native")),),
    before=("INSERT INTO t VALUES (1, 'Ada', 'x'), (2, NULL, 'x')",),
    marker_in_view=True,
)

DROPPED = Design(
    "id int PRIMARY KEY, name text, legacy text",
    (group(old("legacy", "text", "upper({name})")),),
    before=("INSERT INTO t VALUES (1, 'ada', 'mine')",),
    marker_in_view=True,
)

DEFAULTED = Design(
    "id int PRIMARY KEY, a int DEFAULT 3, o text",
    (group(old("a", down="round({_c})::integer", default="3"), new("_c", "a", up="{a}::numeric")),),
    marker_in_view=True,
)

TWO = Design(
    "id int PRIMARY KEY, a int, b int, o text",
    (
        group(old("a", down="round({_c})::integer"), new("_c", "a", up="{a}::numeric"), name="a", number=0),
        group(old("b", down="round({_d})::integer"), new("_d", "b", up="{b}::numeric"), name="b", number=1),
    ),
    before=("INSERT INTO t VALUES (1, 5, 6, 'x')",),
)


def with_policy(policy: Conflict, authority: Authority = Authority.OLD) -> Design:
    """`ROUNDED` with another answer to a statement that writes both sides."""
    made = _ROUNDED.model_copy(update={"conflict": policy})
    return Design(ROUNDED.columns, (made,), authority=authority)


def with_trigger(
    body: str, design: Design = ROUNDED, event: str = "INSERT OR UPDATE", name: str = "app"
) -> Design:
    """The design with a BEFORE trigger of the application's own."""
    made = (
        f"CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {body} END'",
        f"CREATE TRIGGER {name} BEFORE {event} ON t FOR EACH ROW EXECUTE FUNCTION app()",
    )
    return replace(design, after=made)


# --- scenes -----------------------------------------------------------------------------------------------------------


def unrelated_update_settles(s: Stage) -> None:
    s.has(1, settled=False, _c=None)
    s.run("UPDATE t SET o = 'y' WHERE id = 1")
    s.has(1, settled=True, _c=5, new_last=[])


def unchanged_rewrite_settles(s: Stage) -> None:
    s.old("UPDATE t SET a = a WHERE id = 1")
    s.has(1, settled=True, _c=5, a=5)


def old_write_settles(s: Stage) -> None:
    s.old("UPDATE t SET a = 9 WHERE id = 1")
    s.has(1, settled=True, _c=9)
    s.run("DELETE FROM t WHERE id <> 1")
    s.agrees()


def old_write_follows(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.new("UPDATE t SET a = 1.6 WHERE id = 1")
    s.has(1, a=2, _c=1.6, new_last=[0])
    s.old("UPDATE t SET a = 7 WHERE id = 1")
    s.has(1, a=7, _c=7, new_last=[])
    s.agrees()


def new_write_follows(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.new("UPDATE t SET a = 8.4 WHERE id = 1")
    s.has(1, a=8, _c=8.4, new_last=[0])
    s.new("UPDATE t SET a = NULL WHERE id = 1")
    s.has(1, a=None, _c=None)
    s.agrees()


def new_write_that_fits_keeps_the_old(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, ' Blue', 'x')")
    s.has(1, _c="blue")
    s.new("UPDATE t SET a = 'red' WHERE id = 1")
    s.has(1, a="red")
    s.old("UPDATE t SET a = ' Blue' WHERE id = 1")
    s.run("UPDATE t SET a = ' Red', _c = 'red' WHERE id = 1")
    s.has(1, a=" Red", _c="red", new_last=[])
    s.agrees()


def case_change_is_a_change(s: Stage) -> None:
    s.new("INSERT INTO t (id, a) VALUES (1, 'blue')")
    s.has(1, a="blue", new_last=[0])
    s.new("UPDATE t SET a = 'Blue' WHERE id = 1")
    s.has(1, a="Blue", _c="Blue")
    s.agrees()


def both_written_agree_by_up(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.run("UPDATE t SET a = 7, _c = 7 WHERE id = 1")
    s.has(1, a=7, _c=7, new_last=[])
    s.agrees()


def both_written_agree_by_down(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.run("UPDATE t SET a = 2, _c = 1.6 WHERE id = 1")
    s.has(1, a=2, _c=1.6, new_last=[0])
    s.agrees()


def both_written_disagree_is_refused(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    error = s.refused(s.run, "UPDATE t SET a = 7, _c = 9 WHERE id = 1")
    assert error.sqlstate == "23000"
    assert '"a"' in str(error.diag.message_detail)
    assert '"_c"' in str(error.diag.message_detail)
    assert error.diag.table_name == "t"
    assert not {"7", "9"} & set(
        "".join(filter(None, [error.diag.message_primary, error.diag.message_detail]))
    )
    s.has(1, a=5, _c=5)


def both_written_old_wins(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.run("UPDATE t SET a = 7, _c = 9 WHERE id = 1")
    s.has(1, a=7, _c=7, new_last=[])
    s.run("INSERT INTO t (id, a, _c) VALUES (2, 7, 9)")
    s.has(2, a=7, _c=7, new_last=[])
    s.agrees()


def both_written_new_wins(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.run("UPDATE t SET a = 7, _c = 9 WHERE id = 1")
    s.has(1, a=9, _c=9, new_last=[0])
    s.run("INSERT INTO t (id, a, _c) VALUES (2, 7, 9)")
    s.has(2, a=9, _c=9, new_last=[0])
    s.agrees()


def what_up_reads_changes(s: Stage) -> None:
    s.run("UPDATE t SET id = 1 WHERE id = 1")
    s.has(1, _price="5EUR", settled=True)
    s.run("UPDATE t SET rate = 2 WHERE id = 1")
    s.has(1, amount=5, _price="10EUR")
    s.run("UPDATE t SET currency = 'USD' WHERE id = 1")
    s.has(1, amount=5, _price="10USD", new_last=[])
    s.agrees()


def what_down_reads_changes(s: Stage) -> None:
    s.run("UPDATE t SET rate = 2 WHERE id = 1")
    s.new("UPDATE t SET price = '30 USD' WHERE id = 1")
    s.has(1, amount=15, new_last=[0])
    s.run("UPDATE t SET rate = 3 WHERE id = 1")
    s.has(1, amount=10, _price="30 USD", new_last=[0])
    s.run("UPDATE t SET currency = 'JPY' WHERE id = 1")
    s.has(1, amount=10, _price="30 USD", new_last=[0])
    s.agrees()


def a_named_side_is_not_derived_again(s: Stage) -> None:
    s.run("UPDATE t SET rate = 2 WHERE id = 1")
    s.new("UPDATE t SET price = '30 USD' WHERE id = 1")
    s.has(1, amount=15, new_last=[0])
    # The old application writes its whole row: what it says stays.
    s.old("UPDATE t SET amount = amount, currency = currency, rate = 3 WHERE id = 1")
    s.has(1, amount=15, rate=3, _price="45EUR", new_last=[])
    # And so does the new one.
    s.new("UPDATE t SET price = price, currency = currency, rate = 5 WHERE id = 1")
    s.has(1, amount=9, rate=5, _price="45EUR", new_last=[0])
    s.agrees()


def a_named_added_column_is_not_derived_again(s: Stage) -> None:
    s.old("UPDATE t SET o = 'y'")
    s.new("UPDATE t SET name = 'Bob', slug = slug WHERE id = 1")
    s.has(1, name="Bob", slug="ada", new_last=[0])
    s.agrees()


def a_named_dropped_column_is_not_derived_again(s: Stage) -> None:
    s.new("INSERT INTO t (id, name) VALUES (2, 'eve')")
    s.old("UPDATE t SET name = 'bob', legacy = legacy WHERE id = 2")
    s.has(2, name="bob", legacy="EVE", new_last=[])
    s.run("UPDATE t SET id = id")
    s.agrees()


def what_down_reads_makes_it_raise(s: Stage) -> None:
    s.run("UPDATE t SET rate = 2 WHERE id = 1")
    s.new("UPDATE t SET price = '30 USD' WHERE id = 1")
    s.old("UPDATE t SET rate = 0 WHERE id = 1")
    s.has(1, rate=0, amount=15, _price="30 USD", failed=True, new_last=[0])
    assert s.failures() == [({"id": 1}, "g", "22012")]
    s.old("UPDATE t SET rate = 5 WHERE id = 1")
    s.has(1, amount=6, _price="30 USD", failed=False, new_last=[0])
    assert s.failures() == []
    s.agrees()


def unchanged_rewrite_keeps_a_lossy_value(s: Stage) -> None:
    s.new("INSERT INTO t (id, a) VALUES (1, 1.6)")
    s.has(1, a=2, _c=1.6)
    s.old("UPDATE t SET a = a, o = 'y' WHERE id = 1")
    s.has(1, a=2, _c=1.6, o="y", new_last=[0])
    s.old("UPDATE t SET a = 2, o = 'z'")
    s.has(1, a=2, _c=1.6, o="z", new_last=[0])
    s.agrees()


def null_on_an_unfilled_row_is_refused(s: Stage) -> None:
    for statement in ("UPDATE t SET a = NULL WHERE id = 1", "UPDATE t SET a = a + 1 WHERE id = 1"):
        error = s.refused(s.new, statement)
        assert error.sqlstate == "55000"
        assert '"a"' in str(error.diag.message_primary)
        assert error.diag.message_hint
        s.has(1, settled=False, a=5)
    s.new("UPDATE t SET a = 8.5 WHERE id = 1")
    s.has(1, a=9, _c=8.5, settled=True)
    # Where the old value is NULL as well, nothing is lost.
    s.new("UPDATE t SET a = NULL WHERE id = 2")
    s.has(2, a=None, _c=None, settled=True)
    # A statement that names the old side too says what the old value is.
    s.run("UPDATE t SET a = a, _c = _c WHERE id = 3")
    s.has(3, a=7, _c=7, settled=True, new_last=[])
    s.agrees()


def part_of_an_unfilled_group_is_refused(s: Stage) -> None:
    error = s.refused(s.new, "UPDATE t SET first = 'Augusta' WHERE id = 1")
    assert error.sqlstate == "55000"
    s.new("UPDATE t SET first = 'Augusta', last = 'King' WHERE id = 1")
    s.has(1, name="Augusta King", _first="Augusta", new_last=[0])
    s.new("UPDATE t SET last = 'Byron' WHERE id = 1")
    s.has(1, name="Augusta Byron")
    s.old("UPDATE t SET name = 'Ada Lovelace' WHERE id = 1")
    s.has(1, _first="Ada", _last="Lovelace", new_last=[])
    s.agrees()


def up_raises_and_the_write_goes_through(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (4, 'none', 'x')")
    s.has(4, a="none", _c=None, failed=True)
    s.old("UPDATE t SET o = 'y' WHERE id = 2")
    s.has(2, a="bad", _c=None, o="y", failed=True)
    assert s.failures() == [({"id": 2}, "g", "22P02"), ({"id": 4}, "g", "22P02")]
    # A later write cures it.
    s.old("UPDATE t SET a = '8' WHERE id = 2")
    s.has(2, _c=8, failed=False)
    s.new("UPDATE t SET a = 9 WHERE id = 4")
    s.has(4, a="9", failed=False, new_last=[0])
    assert s.failures() == []
    # A row that was filled keeps what it had.
    s.old("UPDATE t SET a = 'worse' WHERE id = 2")
    s.has(2, a="worse", _c=8, failed=True, new_last=[])
    s.run("UPDATE t SET id = 20 WHERE id = 2")
    assert s.failures() == [({"id": 20}, "g", "22P02")]
    assert s.mismatches() == [("unsettled", "", 1), ("failed", "", 1)]
    s.run("DELETE FROM t WHERE id = 20")
    assert s.failures() == []
    s.old("UPDATE t SET a = 'again' WHERE id = 4")
    assert len(s.failures()) == 1
    s.run("TRUNCATE t")
    assert s.failures() == []


def failed_row_is_not_overwritten_by_a_rewrite(s: Stage) -> None:
    s.old("UPDATE t SET a = 'worse' WHERE id = 1")
    s.old("UPDATE t SET a = '6' WHERE id = 1")
    s.old("UPDATE t SET a = 'worse' WHERE id = 1")
    s.has(1, a="worse", _c=6, failed=True)
    s.new("UPDATE t SET a = a, o = 'y' WHERE id = 1")
    s.has(1, a="worse", _c=6, o="y", failed=True, new_last=[])


def too_long_is_never_cut(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 'abc')")
    s.has(1, _c="abc", failed=False)
    s.old("UPDATE t SET a = 'abcdef' WHERE id = 1")
    s.has(1, a="abcdef", _c="abc", failed=True)
    assert s.failures() == [({"id": 1}, "g", "22001")]
    # Not taken for an agreement with what would be left of it.
    s.old("UPDATE t SET a = 'abc'")
    assert s.refused(s.run, "UPDATE t SET a = 'xyzw', b = 'xyz'".replace("b", "_c")).sqlstate == "23000"
    s.agrees()


def down_raises_and_the_write_is_refused(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (4, 5, 'x')")
    error = s.refused(s.new, "UPDATE t SET a = 1e12 WHERE id = 4")
    assert error.sqlstate == "22003"
    s.has(4, a=5, _c=5)
    assert s.refused(s.new, "INSERT INTO t (id, a) VALUES (9, 1e12)").sqlstate == "22003"


def promised_null_is_a_failure(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, NULL, 'x')")
    s.has(1, _c=None, failed=True)
    assert s.failures() == [({"id": 1}, "g", "23502")]
    s.old("UPDATE t SET a = 4")
    s.has(1, _c=4, failed=False)
    s.old("UPDATE t SET a = NULL")
    s.has(1, a=None, _c=4, failed=True)
    s.old("UPDATE t SET a = 6")
    assert s.failures() == []
    s.agrees()


def added_column_follows_until_it_is_written(s: Stage) -> None:
    s.old("UPDATE t SET o = 'y'")
    s.has(1, slug="ada", new_last=[])
    s.old("UPDATE t SET name = 'Bob' WHERE id = 1")
    s.has(1, slug="bob")
    s.new("UPDATE t SET slug = 'robert' WHERE id = 1")
    s.has(1, slug="robert", new_last=[0])
    s.old("UPDATE t SET name = 'Eve' WHERE id = 1")
    s.has(1, name="Eve", slug="robert")
    s.new("UPDATE t SET slug = NULL WHERE id = 1")
    s.old("UPDATE t SET name = 'Zoe' WHERE id = 1")
    s.has(1, slug=None)
    s.old("INSERT INTO t (id, name) VALUES (5, 'Kim')")
    s.has(5, slug="kim", new_last=[])
    s.new("INSERT INTO t (id, name, slug) VALUES (6, 'Kim', NULL), (7, 'Kim', 'k')")
    s.has(6, slug=None, new_last=[0])
    s.has(7, slug="k", new_last=[0])
    s.agrees()


def added_column_refuses_null_on_an_unfilled_row(s: Stage) -> None:
    assert s.refused(s.new, "UPDATE t SET slug = slug || 'x' WHERE id = 1").sqlstate == "55000"
    s.new("UPDATE t SET slug = 'own' WHERE id = 1")
    s.old("UPDATE t SET name = 'Eve' WHERE id = 1")
    s.has(1, slug="own", new_last=[0])
    s.new("UPDATE t SET slug = NULL WHERE id = 2")
    s.has(2, slug=None, new_last=[0])
    s.agrees()


def dropped_column_is_filled_for_new_rows(s: Stage) -> None:
    s.new("INSERT INTO t (id, name) VALUES (2, 'eve')")
    s.has(2, legacy="EVE", new_last=[0])
    s.new("UPDATE t SET name = 'zoe' WHERE id = 2")
    s.has(2, legacy="ZOE")
    s.old("INSERT INTO t (id, name) VALUES (3, 'kim')")
    s.has(3, legacy=None, new_last=[])
    s.new("UPDATE t SET name = 'bob' WHERE id = 1")
    s.has(1, legacy="mine", new_last=[])
    s.old("UPDATE t SET legacy = 'own' WHERE id = 2")
    s.new("UPDATE t SET name = 'pat' WHERE id = 2")
    s.has(2, legacy="own", new_last=[])
    s.agrees()


def insert_by_either_side(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.new("INSERT INTO t (id, a) VALUES (2, 2.4)")
    s.run("INSERT INTO t (id, a) VALUES (3, 6)")
    s.run("INSERT INTO t (id, _c) VALUES (4, 6.4)")
    s.run("INSERT INTO t (id) VALUES (5)")
    s.has(1, a=5, _c=5, new_last=[])
    s.has(2, a=2, _c=2.4, new_last=[0])
    s.has(3, a=6, _c=6, new_last=[])
    s.has(4, a=6, _c=6.4, new_last=[0])
    s.has(5, a=None, _c=None)
    s.run("INSERT INTO t (id, a, _c) VALUES (6, 8, 8), (7, 8, 8.4)")
    s.has(6, new_last=[], _c=8)
    s.has(7, new_last=[0], _c=8.4)
    assert s.refused(s.run, "INSERT INTO t (id, a, _c) VALUES (8, 1, 9)").sqlstate == "23000"
    s.agrees()


def explicit_null_is_not_an_omission(s: Stage) -> None:
    s.old("INSERT INTO t (id, o) VALUES (1, 'x')")
    s.has(1, a=3, _c=3, new_last=[])
    s.old("INSERT INTO t (id, a) VALUES (2, NULL)")
    s.has(2, a=None, _c=None, new_last=[])
    s.new("INSERT INTO t (id, o) VALUES (3, 'x')")
    s.has(3, a=None, _c=None, new_last=[0])
    s.new("INSERT INTO t (id, a) VALUES (4, NULL)")
    s.has(4, a=None, _c=None, new_last=[0])
    s.new("INSERT INTO t (id, a) VALUES (5, 4.4)")
    s.has(5, a=4, _c=4.4, new_last=[0])
    # Somebody who uses the table itself: the default is not a value that was given.
    s.run("INSERT INTO t (id, _c) VALUES (6, 4.4)")
    s.has(6, a=4, _c=4.4, new_last=[0])
    s.agrees()


def groups_are_settled_apart(s: Stage) -> None:
    s.run("UPDATE t SET o = 'y'")
    s.has(1, _c=5, _d=6, new_last=[])
    s.new("UPDATE t SET a = 1.6")
    s.has(1, a=2, b=6, _d=6, new_last=[0])
    s.run("UPDATE t SET a = 7, _d = 2.6")
    s.has(1, a=7, _c=7, b=3, _d=2.6, new_last=[1])
    s.old("UPDATE t SET a = 7, b = 3, o = 'z'")
    s.has(1, _d=2.6, new_last=[1])
    s.old("UPDATE t SET a = 8, b = 3, o = 'z'")
    s.has(1, _c=8, _d=2.6, new_last=[1])
    s.agrees()


def unfilled_groups_are_judged_apart(s: Stage) -> None:
    assert s.refused(s.new, "UPDATE t SET a = 1, b = NULL").sqlstate == "55000"
    s.new("UPDATE t SET a = 1.6")
    s.has(1, a=2, _c=1.6, b=6, _d=6, new_last=[0])
    s.agrees()


def writing_the_marker_changes_nothing(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    for count, value in enumerate(("NULL", "0", "4", "5", "-1", "DEFAULT", "1"), start=6):
        s.run(f"UPDATE t SET a = a + 1, _zdm_state = {value}")
        s.has(1, a=count, _c=count, settled=True, new_last=[])
    s.new("UPDATE t SET a = 1.6")
    s.run("UPDATE t SET a = 9, _zdm_state = 1")
    s.has(1, a=9, _c=9, new_last=[])
    s.agrees()


def trigger_that_changes_the_old_column(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.has(1, a=105, _c=105)
    s.new("UPDATE t SET a = 8.4")
    s.has(1, a=8, _c=8.4, new_last=[0])
    s.old("UPDATE t SET a = 1")
    s.has(1, a=101, _c=101, new_last=[])
    s.old("UPDATE t SET o = 'y'")
    s.has(1, a=201, _c=201, new_last=[])
    s.new("INSERT INTO t (id, a) VALUES (2, 3.3)")
    s.agrees()


def trigger_that_changes_the_new_column(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.old("UPDATE t SET a = 9")
    s.has(1, a=9, _c=9, new_last=[])
    s.new("UPDATE t SET a = 2.4")
    s.has(1, a=-1, _c=-1, new_last=[0])
    s.run("UPDATE t SET o = 'y'")
    s.agrees()


def trigger_that_changes_something_else(s: Stage) -> None:
    s.old("INSERT INTO t VALUES (1, 5, 'x')")
    s.old("UPDATE t SET a = 6")
    s.has(1, a=6, _c=6, o="touched")
    s.new("UPDATE t SET a = 7.7")
    s.has(1, a=8, _c=7.7, o="touched")
    s.agrees()


def trigger_that_swallows_the_write(s: Stage) -> None:
    s.run("INSERT INTO t VALUES (1, 5, 'x'), (2, 6, 'x')")
    s.run("UPDATE t SET a = a + 1")
    s.has(1, a=5, _c=5)
    s.has(2, a=7, _c=7)
    s.agrees()


def trigger_that_writes_the_other_side_too(s: Stage) -> None:
    s.old("UPDATE t SET o = 'y'")
    s.has(1, a=5, _c=5, settled=True, new_last=[])
    s.old("UPDATE t SET a = 4 WHERE id = 1")
    s.has(1, a=4, _c=4, new_last=[])
    s.run("DELETE FROM t WHERE id = 2")
    s.agrees()


@dataclass(frozen=True)
class Scene:
    """One promise: the design it needs, and how it is played."""

    rule: str
    design: Design
    play: Callable[[Stage], None]

    @property
    def name(self) -> str:
        return f"{self.rule}-{self.play.__name__}"


PROMISED = Design(
    ROUNDED.columns,
    (group(old("a", down="round({_c})::integer"), new("_c", "a", up="{a}::numeric", not_null=True)),),
)
CUT = Design(
    "id int PRIMARY KEY, a text",
    (
        group(
            old("a", "text", "{_c}::text"),
            new("_c", "b", "character varying(3)", "{a}", comparison="native"),
        ),
    ),
)

SCENES = (
    Scene("rule 1", UNFILLED, unrelated_update_settles),
    Scene("rule 1", UNFILLED, unchanged_rewrite_settles),
    Scene("rule 1", UNFILLED, old_write_settles),
    Scene("rule 2", ROUNDED, old_write_follows),
    Scene("rule 3", ROUNDED, new_write_follows),
    Scene("rule 3", TRIMMED, new_write_that_fits_keeps_the_old),
    Scene("rule 3", TRIMMED, case_change_is_a_change),
    Scene("rule 4", ROUNDED, both_written_agree_by_up),
    Scene("rule 4", ROUNDED, both_written_agree_by_down),
    Scene("rule 4", ROUNDED, both_written_disagree_is_refused),
    Scene("rule 4 old", with_policy(Conflict.OLD), both_written_old_wins),
    Scene("rule 4 new", with_policy(Conflict.NEW), both_written_new_wins),
    Scene("rule 4 authority old", with_policy(Conflict.AUTHORITY), both_written_old_wins),
    Scene("rule 4 authority new", with_policy(Conflict.AUTHORITY, Authority.NEW), both_written_new_wins),
    Scene("rule 5", PRICED, what_up_reads_changes),
    Scene("rule 5", PRICED, what_down_reads_changes),
    Scene("rule 5", PRICED, what_down_reads_makes_it_raise),
    Scene("rule 5", PRICED, a_named_side_is_not_derived_again),
    Scene("rule 5", ADDED, a_named_added_column_is_not_derived_again),
    Scene("rule 5", DROPPED, a_named_dropped_column_is_not_derived_again),
    Scene("rule 6", ROUNDED, unchanged_rewrite_keeps_a_lossy_value),
    Scene("rule 7", UNFILLED, null_on_an_unfilled_row_is_refused),
    Scene("rule 7", SPLIT, part_of_an_unfilled_group_is_refused),
    Scene("rule 8", PARSED, up_raises_and_the_write_goes_through),
    Scene("rule 8", PARSED, failed_row_is_not_overwritten_by_a_rewrite),
    Scene("rule 8", CUT, too_long_is_never_cut),
    Scene("rule 8", ROUNDED, down_raises_and_the_write_is_refused),
    Scene("rule 9", PROMISED, promised_null_is_a_failure),
    Scene("rule 10", ADDED, added_column_follows_until_it_is_written),
    Scene("rule 10", ADDED, added_column_refuses_null_on_an_unfilled_row),
    Scene("rule 11", DROPPED, dropped_column_is_filled_for_new_rows),
    Scene("insert", ROUNDED, insert_by_either_side),
    Scene("insert", DEFAULTED, explicit_null_is_not_an_omission),
    Scene("groups", TWO, groups_are_settled_apart),
    Scene("groups", TWO, unfilled_groups_are_judged_apart),
    Scene("marker", ROUNDED, writing_the_marker_changes_nothing),
    Scene(
        "trigger",
        with_trigger("NEW.a := NEW.a + 100; RETURN NEW;"),
        trigger_that_changes_the_old_column,
    ),
    Scene(
        "trigger",
        with_trigger("IF NEW._c IS NOT NULL THEN NEW._c := -1; END IF; RETURN NEW;", event="UPDATE"),
        trigger_that_changes_the_new_column,
    ),
    Scene("trigger", with_trigger("NEW.o := ''touched''; RETURN NEW;"), trigger_that_changes_something_else),
    Scene(
        "trigger",
        with_trigger("IF NEW.id = 1 THEN RETURN NULL; END IF; RETURN NEW;", event="UPDATE"),
        trigger_that_swallows_the_write,
    ),
    Scene(
        "trigger",
        with_trigger("NEW._c := NEW.a + 0.25; RETURN NEW;", UNFILLED, event="UPDATE"),
        trigger_that_writes_the_other_side_too,
    ),
)

BY_NAME = {scene.play.__name__: scene for scene in SCENES}
