"""A publication's column list and row filter name the old column until the swap, and its successor from then on.

What subscribers get is one stream of columns by name. Until the swap nothing changes for them; in the swap's own transaction
the table's entry is made anew with the successor, which takes its final name there. So a subscriber never sees a column of
zdm's, and has to be ready for the new type (and name) before cleanup, no earlier.
"""

from __future__ import annotations

from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, rename, retype
from zdm.db.session import Connection, fetch_value
from zdm.model.requests import Follow, FollowRequest

_FACTS = """
SELECT b.pubname, pg_has_role(b.pubowner, 'USAGE'), pg_get_userbyid(b.pubowner),
  (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
   WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)),
  pg_get_expr(r.prqual, r.prrelid)
FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid WHERE r.oid = %s
"""


def follow_publication(conn: Connection, request: FollowRequest) -> Follow:
    """The table's entry, dropped and added again with the successors, in one transaction."""
    row = conn.execute(_FACTS, (request.oid,)).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    name, ours, owner, columns, filter_ = row
    if not ours:
        raise CannotFollowError(f"it belongs to {owner}, and the connected role is not a member of it")
    replaced = [c for r in request.replaced if r.table == request.table for c in r.columns]
    successors = {c.old: c.new for c in replaced}
    table = sql.Identifier(request.table.schema_, request.table.name)
    entry = sql.Composed([table])
    if columns is not None:
        kept = [successors.get(c, c) for c in columns if c not in request.dropped]
        if not kept:
            raise CannotFollowError("no column would be left in its list")
        entry += sql.SQL(" ({})").format(sql.SQL(", ").join(sql.Identifier(c) for c in kept))
    if filter_ is not None:
        copy = sql.Identifier("pg_temp", "_zdm_carry")
        conn.execute(sql.SQL("CREATE TEMPORARY TABLE _zdm_carry (LIKE {}) ON COMMIT DROP").format(table))
        for column in replaced:
            retype(conn, copy, column)
        for dropped in request.dropped:
            conn.execute(sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(copy, sql.Identifier(dropped)))
        conn.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT _zdm_carried CHECK ({})").format(copy, sql.SQL(filter_))
        )
        rename(conn, copy, replaced)
        filter_ = fetch_value(
            conn,
            "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conname = '_zdm_carried'"
            " AND connamespace = pg_my_temp_schema()",
        )
        entry += sql.SQL(" WHERE ({})").format(sql.SQL(filter_))
    publication = sql.Identifier(name)
    return Follow(
        on=request.table,
        swap=(
            sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(publication, table).as_string(conn),
            sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(publication, entry).as_string(conn),
        ),
    )
