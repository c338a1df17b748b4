"""Keys that each version gives a value of its own: what the server has to say to them, and how what refers to them follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from zdm.db.session import Session, fetch_value
from zdm.errors import Problem
from zdm.model.expression import Expression, Volatility
from zdm.model.mapping import ColumnGroup, Lookup
from zdm.model.names import QualifiedName
from zdm.operations.base import Draft
from zdm.operations.shape import DraftGroup, TableShape
from zdm.sql import pairs

_FORCED = """
SELECT c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_catalog.pg_roles r
  WHERE (r.oid = c.relowner OR r.rolname = CURRENT_USER) AND NOT (r.rolsuper OR r.rolbypassrls))
FROM pg_catalog.pg_class c WHERE c.oid = %s
"""

_COMPARED = """
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  WHERE t.oid = pg_catalog.to_regtype(%s) AND b.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND b.typtype = 'b'
    AND b.typelem = 0 AND (b.typname = 'varchar' OR EXISTS (
      SELECT FROM pg_catalog.pg_opclass c JOIN pg_catalog.pg_am a ON a.oid = c.opcmethod
      WHERE a.amname = 'btree' AND c.opcdefault AND c.opcintype = b.oid)))
"""

_SHARED = """
SELECT pg_catalog.pg_describe_object(u.classid, u.objid, u.objsubid)
FROM pg_catalog.pg_depend p
JOIN pg_catalog.pg_class c ON p.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = p.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_attribute a ON a.attrelid = p.refobjid AND a.attnum = p.refobjsubid
JOIN pg_catalog.pg_depend u ON u.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND u.refobjid = c.oid AND u.deptype = 'n'
LEFT JOIN pg_catalog.pg_attrdef d ON u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.oid = u.objid
WHERE p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.refobjid = %(oid)s AND p.deptype = 'a'
  AND a.attname = ANY (%(names)s) AND (d.adrelid = p.refobjid AND d.adnum = p.refobjsubid) IS NOT TRUE
ORDER BY 1
"""


def refused_keys(conn: Session, shape: TableShape, fills: Mapping[str, Expression]) -> list[Problem]:
    """What is wrong with the keys of a table that get a value of their own in the new version."""
    return [
        problem for group in shape.groups if group.paired for problem in _refused(conn, shape, group, fills)
    ]


def forced(conn: Session, oid: int) -> bool:
    """Whether row security of the table holds for its owner as well, as whom our functions run, or for us."""
    return bool(fetch_value(conn, _FORCED, [oid]))


def _refused(
    conn: Session, shape: TableShape, group: DraftGroup, fills: Mapping[str, Expression]
) -> Iterator[Problem]:
    for new in group.new:
        fill = fills.get(new.physical)
        if fill is not None and fill.volatility is not Volatility.VOLATILE:
            yield Problem(
                f"{fill.source!r} gives every row the same value, which is no key",
                group.operation,
                "Give `generate` a function that returns another value each time, such as gen_random_uuid().",
            )
        if not fetch_value(conn, _COMPARED, [new.type]):
            yield Problem(
                f"rows cannot be looked up by a key of type {new.type} in every session alike",
                group.operation,
                "Let `to` be an integer, uuid, text or another type of the server's own that an index can order.",
                "no-key",
            )
    if forced(conn, shape.table.oid):
        yield Problem(
            f"{shape.name} has row security that holds for its owner as well, so not every row could be looked up",
            group.operation,
            f"ALTER TABLE {shape.name} NO FORCE ROW LEVEL SECURITY until cleanup.",
            "row-security-views",
        )
    shared = [row[0] for row in conn.execute(_SHARED, {"oid": shape.table.oid, "names": list(group.old)})]
    if shared:
        yield Problem(
            f"the sequence of {', '.join(group.old)} of {shape.name}, which goes with it, is used by {', '.join(shared)} as well",
            group.operation,
            "ALTER SEQUENCE … OWNED BY NONE, and it stays.",
            "hangs-on-column",
        )


def referring(draft: Draft, group: ColumnGroup, table: QualifiedName, *, own: bool) -> ColumnGroup:
    """The group with its columns looked up by each other in the table that they refer to.

    Parameters
    ----------
    own: that is the table of the group itself.
    """
    (old,), (new,) = group.old, group.new
    view = pairs.view_name(draft.tables[table].oid)
    up = pairs.to_new(view, old.name, table, new.type)
    down = pairs.to_old(view, new.name, table, old.type)
    return group.model_copy(
        update={
            "old": (old.model_copy(update={"down": down}),),
            "new": (new.model_copy(update={"up": up}),),
            "lookup": Lookup(table=table, pairs=view, depth=draft.depth(table) + (0 if own else 1)),
        }
    )
