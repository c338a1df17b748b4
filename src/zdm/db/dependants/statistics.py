"""Extended statistics are made on the successor once the data is there, and take the old name at cleanup."""

from __future__ import annotations

from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, rename, retype
from zdm.db.session import Connection, fetch_value
from zdm.model.names import fit
from zdm.model.requests import Follow, FollowRequest

_FACTS = """
SELECT s.stxname, n.nspname, pg_get_userbyid(s.stxowner), pg_has_role(s.stxowner, 'USAGE'),
  array(SELECT CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' ELSE 'mcv' END
        FROM unnest(s.stxkind) AS k WHERE k <> 'e'),
  cardinality(s.stxkeys::int2[]) = 0 AND s.stxexprs IS NOT NULL,
  pg_get_statisticsobjdef_columns(s.oid), nullif((to_jsonb(s) ->> 'stxstattarget')::int, -1),
  obj_description(s.oid, 'pg_statistic_ext')
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.oid = %s
"""


def follow_statistics(conn: Connection, request: FollowRequest) -> Follow:
    """CREATE STATISTICS on the successors; the kinds, the target, the owner and the comment are the old ones'."""
    row = conn.execute(_FACTS, (request.oid,)).fetchone()
    if row is None:
        raise CannotFollowError("they are not there any more")
    name, schema, owner, ours, kinds, only_expressions, columns, target, comment = row
    if not ours:
        raise CannotFollowError(f"they belong to {owner}, and the connected role is not a member of it")
    rewritten = _rewritten(conn, request, columns)
    # One expression alone has statistics of its own kind, which must not be named.
    of_kinds: sql.Composable = sql.SQL("")
    if kinds and not (only_expressions and not _several(conn, request.oid)):
        of_kinds = sql.SQL(" ({})").format(sql.SQL(", ").join(sql.SQL(kind) for kind in kinds))
    old, new = sql.Identifier(schema, name), sql.Identifier(schema, fit(f"_zdm_{name}"))
    table = sql.Identifier(request.table.schema_, request.table.name)
    build: list[sql.Composable] = [
        sql.SQL("CREATE STATISTICS {}{} ON {} FROM {}").format(new, of_kinds, sql.SQL(rewritten), table)
    ]
    if target is not None:
        build.append(sql.SQL("ALTER STATISTICS {} SET STATISTICS {}").format(new, sql.Literal(target)))
    if owner != fetch_value(conn, "SELECT current_user::text"):
        build.append(sql.SQL("ALTER STATISTICS {} OWNER TO {}").format(new, sql.Identifier(owner)))
    finish: list[sql.Composable] = [
        sql.SQL("ALTER STATISTICS {} RENAME TO {}").format(new, sql.Identifier(name))
    ]
    if comment is not None:
        finish.append(sql.SQL("COMMENT ON STATISTICS {} IS {}").format(old, sql.Literal(comment)))
    return Follow(
        on=request.table,
        build=tuple(s.as_string(conn) for s in build),
        unbuild=(sql.SQL("DROP STATISTICS IF EXISTS {}").format(new).as_string(conn),),
        swap=(sql.SQL("DROP STATISTICS IF EXISTS {}").format(old).as_string(conn),),
        finish=tuple(s.as_string(conn) for s in finish),
    )


def _several(conn: Connection, oid: int) -> bool:
    """Whether they are over several expressions: the stored tree is then a list of more than one."""
    count = fetch_value(
        conn,
        "SELECT cardinality(e) FROM (SELECT pg_get_statisticsobjdef_expressions(%s::oid) AS e) AS x",
        (oid,),
    )
    return bool(count and count > 1)


def _rewritten(conn: Connection, request: FollowRequest, columns: str) -> str:
    """What stands behind ON, over the successors."""
    copy = sql.Identifier("pg_temp", "_zdm_carry")
    conn.execute(
        sql.SQL("CREATE TEMPORARY TABLE _zdm_carry (LIKE {}) ON COMMIT DROP").format(
            sql.Identifier(request.table.schema_, request.table.name)
        )
    )
    replaced = [c for r in request.replaced if r.table == request.table for c in r.columns]
    for column in replaced:
        retype(conn, copy, column)
    conn.execute(
        sql.SQL("CREATE STATISTICS pg_temp._zdm_carried ON {} FROM {}").format(sql.SQL(columns), copy)
    )
    rename(conn, copy, replaced)
    found: str = fetch_value(
        conn,
        "SELECT pg_get_statisticsobjdef_columns(s.oid) FROM pg_statistic_ext s"
        " WHERE s.stxname = '_zdm_carried' AND s.stxnamespace = pg_my_temp_schema()",
    )
    return found
