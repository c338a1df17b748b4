"""A trigger that names a replaced column fires for both versions until the swap, and then for the successor.

While both columns exist, ``UPDATE OF old`` becomes ``UPDATE OF old, new``: one trigger, so a statement that writes both
columns fires it once. The backfill writes the new column as well and must not fire it, so it says in a setting of its
transaction that it is at work, and WHEN looks at that. A condition stays over the old column until the swap: an AFTER
trigger is asked when both sides agree. A BEFORE row trigger is asked before, so it can only be kept where its condition
does not mention the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, Clones
from zdm.db.nodetree import Tree
from zdm.db.session import Connection, execute_one, fetch_value
from zdm.model.requests import Follow, FollowRequest
from zdm.sql.rows import SETTLING

_FACTS = """
SELECT g.tgname, g.tgtype, g.tgenabled::text, g.tgconstraint <> 0, g.tgdeferrable, g.tginitdeferred,
  g.tgconstrrelid <> 0, g.tgoldtable, g.tgnewtable, obj_description(g.oid, 'pg_trigger'),
  array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr) ORDER BY a.attnum),
  pg_get_triggerdef(g.oid), g.tgqual::text, g.tgrelid::int8
FROM pg_trigger g WHERE g.oid = %s
"""
_ENABLED = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_CALL = " EXECUTE FUNCTION "
_UNDO = """
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_trigger
             WHERE tgrelid = pg_catalog.to_regclass({table}) AND tgname = {name} AND NOT tgisinternal) THEN
    {statements};
  END IF;
END
"""


def follow_trigger(conn: Connection, request: FollowRequest) -> Follow:
    """The trigger for both columns, the way back, and the trigger for the successor."""
    row = conn.execute(_FACTS, (request.oid,)).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    facts = _Trigger(*row)
    if facts.from_other:
        raise CannotFollowError("constraint triggers with FROM are not carried")
    replaced = {c.old: c.new for r in request.replaced if r.table == request.table for c in r.columns}
    final, path = _rewritten(conn, request, facts)
    table = sql.Identifier(request.table.schema_, request.table.name)
    swap = path.under_path(*_again(facts, table, final))
    condition, call = _cut(facts)
    if facts.before_row and _asks(conn, facts) & replaced.keys():
        raise CannotFollowError(
            "it is a BEFORE row trigger whose WHEN asks about the column before zdm has derived it from the new version's"
        )
    added = [replaced[c] for c in facts.of if c in replaced]
    if not added:
        return Follow(on=request.table, swap=swap)
    both = sql.SQL("{} WHEN ({}){}{}").format(
        _head(facts, table, [*facts.of, *added]), _guarded(condition), sql.SQL(_CALL), sql.SQL(call)
    )
    back = sql.SQL(_UNDO).format(
        table=sql.Literal(table.as_string(None)),
        name=sql.Literal(facts.name),
        statements=sql.SQL(";\n    ").join(sql.SQL(s) for s in _again(facts, table, facts.definition)),
    )
    return Follow(
        on=request.table,
        strong=facts.constraint,
        prepare=_again(facts, table, both.as_string(None)),
        unprepare=(sql.SQL("DO {}").format(sql.Literal(back.as_string(None))).as_string(None),),
        swap=swap,
    )


@dataclass(frozen=True, slots=True)
class _Trigger:
    """The row of `_FACTS`."""

    name: str
    type: int
    enabled: str
    constraint: bool
    deferrable: bool
    deferred: bool
    from_other: bool
    old_rows: str | None
    new_rows: str | None
    comment: str | None
    of: list[str]
    definition: str
    condition: str | None  # as the server stores it
    relation: int

    @property
    def row(self) -> bool:
        return bool(self.type & 1)

    @property
    def before_row(self) -> bool:
        return self.type & 3 == 3


def _again(facts: _Trigger, table: sql.Identifier, definition: str) -> tuple[str, ...]:
    """What gives the trigger another definition and leaves it its enabled state and comment."""
    name = sql.Identifier(facts.name)
    body = definition.removeprefix("CREATE ")
    found: list[sql.Composable]
    if facts.constraint:  # has no OR REPLACE
        found = [
            sql.SQL("DROP TRIGGER {} ON {}").format(name, table),
            sql.SQL("CREATE {}").format(sql.SQL(body)),
        ]
        if facts.comment is not None:
            text = sql.Literal(facts.comment)
            found.append(sql.SQL("COMMENT ON TRIGGER {} ON {} IS {}").format(name, table, text))
    else:
        found = [sql.SQL("CREATE OR REPLACE {}").format(sql.SQL(body))]
    if facts.enabled != "O":
        state = sql.SQL(_ENABLED[facts.enabled])
        found.append(sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(table, state, name))
    return tuple(statement.as_string(None) for statement in found)


def _head(facts: _Trigger, table: sql.Identifier, of: Sequence[str]) -> sql.Composed:
    """Everything before WHEN, with another list of columns."""
    columns = sql.SQL(", ").join(sql.Identifier(c) for c in of)
    events = [
        event
        for bit, event in (
            (4, sql.SQL("INSERT")),
            (8, sql.SQL("DELETE")),
            (16, sql.SQL("UPDATE OF {}").format(columns) if of else sql.SQL("UPDATE")),
        )
        if facts.type & bit
    ]
    words = sql.SQL("CREATE {}TRIGGER {} {} {} ON {}").format(
        sql.SQL("CONSTRAINT " if facts.constraint else ""),
        sql.Identifier(facts.name),
        sql.SQL("BEFORE" if facts.type & 2 else "AFTER"),
        sql.SQL(" OR ").join(events),
        table,
    )
    if facts.deferrable:
        words += sql.SQL(" DEFERRABLE INITIALLY {}").format(
            sql.SQL("DEFERRED" if facts.deferred else "IMMEDIATE")
        )
    return words + sql.SQL(" FOR EACH {}").format(sql.SQL("ROW" if facts.row else "STATEMENT"))


def _guarded(condition: str | None) -> sql.Composed:
    """The condition, and that it is not the backfill or the repair that writes."""
    guard = sql.SQL("pg_catalog.current_setting({}, true) IS DISTINCT FROM 'on'").format(
        sql.Literal(SETTLING)
    )
    return sql.Composed([guard] if condition is None else [guard, sql.SQL(f" AND ({condition})")])


def _cut(facts: _Trigger) -> tuple[str | None, str]:
    """The condition, if there is one, and the call, out of the server's definition."""
    separator = f"){_CALL}" if facts.condition is not None else _CALL
    before, found, call = facts.definition.partition(separator)
    if not found or separator in call:
        raise CannotFollowError(f"its definition is not understood: {facts.definition}")
    if facts.condition is None:
        return None, call
    start = " FOR EACH ROW WHEN (" if facts.row else " FOR EACH STATEMENT WHEN ("
    _, found, condition = before.partition(start)
    if not found or start in condition:
        raise CannotFollowError(f"its definition is not understood: {facts.definition}")
    return condition, call


def _rewritten(conn: Connection, request: FollowRequest, facts: _Trigger) -> tuple[str, Clones]:
    """The definition over the successors, and the path under which it is spelled."""
    clones = Clones.of(conn, [r for r in request.replaced if r.table == request.table])
    shown = "SELECT pg_get_triggerdef(%s, true)"
    text = fetch_value(conn, shown, (request.oid,))
    clones.reading_copies()
    execute_one(conn, sql.SQL(text))
    clones.rename([r for r in request.replaced if r.table == request.table])
    found: str = fetch_value(
        conn,
        "SELECT pg_get_triggerdef(g.oid, true) FROM pg_trigger g WHERE g.tgname = %s AND g.tgrelid ="
        " (SELECT oid FROM pg_class WHERE relname = %s AND relnamespace = pg_my_temp_schema())",
        (facts.name, request.table.name),
    )
    return found, clones


def _asks(conn: Connection, facts: _Trigger) -> set[str]:
    """The columns that the condition mentions."""
    if facts.condition is None:
        return set()
    numbers = list(Tree(facts.condition).attributes)
    rows = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::oid AND attnum = ANY (%s) AND attnum > 0",
        (facts.relation, numbers),
    ).fetchall()
    return {name for (name,) in rows}
