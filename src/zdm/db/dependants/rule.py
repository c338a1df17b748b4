"""A rule (`CREATE RULE`) that reads or writes the column: made anew over the successor at cleanup before the swap, when both sides are in step.

It sees what the statement says, and not what triggers make of the row. So one on UPDATE or INSERT of a mapped table that reads the column of NEW
would take the other version's for what it was before, and is refused; what it says of OLD, and what it does to other tables' rows, is right by
either column.
"""

from __future__ import annotations

from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, Clones
from zdm.db.session import Connection, fetch_value
from zdm.model.names import QualifiedName, qualified
from zdm.model.requests import Follow, FollowRequest

_FACTS = """
SELECT r.rulename::text, n.nspname::text, c.relname::text, r.ev_enabled::text, pg_get_userbyid(c.relowner),
  pg_has_role(c.relowner, 'USAGE'), obj_description(r.oid, 'pg_rewrite')
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.oid = %s
"""

# Whatever else it names has to be found by the same path when it is made again.
_SCHEMAS = """
SELECT DISTINCT n.nspname::text FROM pg_depend d JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = %s
"""

_COPY = "SELECT oid FROM pg_rewrite WHERE ev_class = %s::regclass AND rulename = %s"

_ENABLED = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def follow_rule(conn: Connection, request: FollowRequest) -> Follow:
    """The rule's definition over the successors."""
    row = conn.execute(_FACTS, (request.oid,)).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    name, schema, table, enabled, owner, ours, comment = row
    on = qualified(schema, table)
    mapped = any(replaced.table == on for replaced in request.replaced)
    if not ours:
        raise CannotFollowError(f"{on} belongs to {owner}, and the connected role is not a member of it")
    schemas = [found for (found,) in conn.execute(_SCHEMAS, (request.oid,))]
    clones = Clones.of(conn, request.replaced, others=() if mapped else (on,), schemas=schemas)
    # Pretty, because else the server qualifies the rule's own table whatever the path.
    old = fetch_value(conn, "SELECT pg_get_ruledef(%s::oid, true)", (request.oid,))
    clones.reading_copies()
    conn.execute(old.encode())
    clones.rename(request.replaced)
    copy = fetch_value(conn, _COPY, (sql.Identifier("pg_temp", table).as_string(None), name))
    new = fetch_value(conn, "SELECT pg_get_ruledef(%s::oid, true)", (copy,))
    statements = [_text("DROP RULE {} ON {}", name, on), new.rstrip(";")]
    if enabled in _ENABLED:
        statements.append(_text(f"ALTER TABLE {{1}} {_ENABLED[enabled]} RULE {{0}}", name, on))
    if comment is not None:
        statements.append(_text("COMMENT ON RULE {} ON {} IS {}", name, on, sql.Literal(comment)))
    return Follow(on=on, tighten=clones.under_path(*statements))


def _text(template: str, name: str, on: QualifiedName, *more: sql.Composable) -> str:
    parts = (sql.Identifier(name), sql.Identifier(on.schema_, on.name), *more)
    return sql.SQL(template).format(*parts).as_string(None)
