"""Both keys of the rows of a table whose key gets a value of its own in each version, and what refers to them.

Nothing computes the one key from the other: only the row itself says that they belong together. What other tables' rows refer
to is looked up in a view of zdm's own, which shows both keys of each row. A view knows columns by their numbers, so that it
stays right while the fence renames them. It is read by the sync functions of the tables that refer to the rows (these
are SECURITY DEFINER therefore: an application's role needs no rights on the other table), by the backfill and the verification.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.expression import ColumnRef, Expression
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, qualified
from zdm.sql.identifiers import qualified_name

SCHEMA = "zdm"


def view_name(oid: int) -> QualifiedName:
    """The view of both keys of a table's rows."""
    return qualified(SCHEMA, f"pairs_{oid}")


def create_view(mapping: TableMapping) -> tuple[str, ...]:
    """What makes the view, once the new key's column stands."""
    group = next(group for group in mapping.groups if group.pairs is not None)
    assert group.pairs is not None
    view = qualified_name(group.pairs)
    # The view's owner reads the table with the owner's rights, as a foreign key's check does.
    made = sql.SQL(
        "CREATE OR REPLACE VIEW {view} AS SELECT {old} AS zdm_old, {new} AS zdm_new, {marker} IS NOT NULL AS zdm_filled"
        " FROM {table}"
    ).format(
        view=view,
        old=sql.Identifier(group.old[0].name),
        new=sql.Identifier(group.new[0].name),
        marker=sql.Identifier(mapping.marker),
        table=qualified_name(mapping.table),
    )
    revoke = sql.SQL("REVOKE ALL ON {} FROM PUBLIC").format(view)
    # To lock a row is to have the right to update it; nobody shall.
    still = sql.SQL("CREATE OR REPLACE RULE zdm_still AS ON UPDATE TO {} DO INSTEAD NOTHING").format(view)
    return made.as_string(None), revoke.as_string(None), still.as_string(None)


def drop_view(view: QualifiedName) -> str:
    """What drops it, whether or not it is there."""
    return sql.SQL("DROP VIEW IF EXISTS {}").format(qualified_name(view)).as_string(None)


def to_new(view: QualifiedName, column: str, table: QualifiedName, type_: str) -> Expression:
    """The new key of the row that the old reference in `column` refers to; NULL if there is none."""
    return _looked_up(
        view, column, "zdm_old", "zdm_new", f"the new key of the row of {table} that {column} names", type_
    )


def to_old(view: QualifiedName, column: str, table: QualifiedName, type_: str) -> Expression:
    """The old key of the row that the new reference in `column` refers to; NULL if there is none."""
    return _looked_up(
        view, column, "zdm_new", "zdm_old", f"the old key of the row of {table} that {column} names", type_
    )


def _looked_up(view: QualifiedName, column: str, by: str, gives: str, source: str, type_: str) -> Expression:
    head = sql.SQL("SELECT zdm_l.{} FROM {} AS zdm_l WHERE zdm_l.{} OPERATOR(pg_catalog.=) ").format(
        sql.Identifier(gives), qualified_name(view), sql.Identifier(by)
    )
    return Expression(source=source, parts=(head.as_string(None), ColumnRef(column=column)), type=type_)


def dangling(value: sql.Composable, old: sql.Composable) -> sql.Composable:
    """Whether the old reference names a row, and `value`, which was looked up, is none."""
    return sql.SQL("({} IS NOT NULL AND {} IS NULL)").format(old, value)
