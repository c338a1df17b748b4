"""A policy protects both versions by the old column until cleanup, then it reads the successor.

While both columns exist they agree (a statement that writes one writes the other before any policy's WITH CHECK is
evaluated), so the policy as it stands protects what either version reads and writes. Just before the swap, ALTER POLICY
lets it read the successor; name, roles, command, permissiveness and comment stay what they are.
"""

from __future__ import annotations

from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, Clones
from zdm.db.session import Connection
from zdm.model.names import qualified
from zdm.model.requests import Follow, FollowRequest

_FACTS = """
SELECT o.polname, n.nspname, c.relname, pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)
FROM pg_policy o JOIN pg_class c ON c.oid = o.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE o.oid = %s
"""
_CONDITIONS = (
    "SELECT pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) FROM pg_policy WHERE {}"
)


def follow_policy(conn: Connection, request: FollowRequest) -> Follow:
    """ALTER POLICY with conditions over the successors, also where another table's policy reads this one."""
    row = conn.execute(_FACTS, (request.oid,)).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    name, schema, relation, ours, owner = row
    if not ours:
        raise CannotFollowError(
            f"{relation} belongs to {owner}, and the connected role is not a member of it"
        )
    on = qualified(schema, relation)
    clones = Clones.of(conn, request.replaced, others=[on])
    old = conn.execute(_CONDITIONS.format("oid = %s").encode(), (request.oid,)).fetchone()
    assert old is not None
    clones.reading_copies()
    conn.execute(
        sql.Composed(
            [
                sql.SQL("CREATE POLICY _zdm_carried ON {}").format(sql.Identifier("pg_temp", relation)),
                _conditions(*old),
            ]
        )
    )
    clones.rename(request.replaced)
    new = conn.execute(
        _CONDITIONS.format(
            "polname = '_zdm_carried' AND polrelid = (SELECT oid FROM pg_class WHERE relname = %s"
            " AND relnamespace = pg_my_temp_schema())"
        ).encode(),
        (relation,),
    ).fetchone()
    assert new is not None
    statement = sql.SQL("ALTER POLICY {} ON {}{}").format(
        sql.Identifier(name), sql.Identifier(schema, relation), _conditions(*new)
    )
    return Follow(on=on, tighten=clones.under_path(statement.as_string(conn)))


def _conditions(using: str | None, check: str | None) -> sql.Composed:
    parts = sql.Composed([])
    if using is not None:
        parts += sql.SQL(" USING ({})").format(sql.SQL(using))
    if check is not None:
        parts += sql.SQL(" WITH CHECK ({})").format(sql.SQL(check))
    return parts
