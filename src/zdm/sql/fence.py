"""The fence: the old version made unusable, but whole, and back in an instant.

Nothing that can be watched from outside proves that nobody uses the old structure any more; taking it away does. The
fence does to names what cleanup will do to the structure itself: the old version's schema and every name that only the
old version uses are renamed aside. The data, the views and both directions of the sync stay, so whoever still needs the old version gets an
error at once, `lift` brings it back at once, and no write of the new version is lost in between.

This module only says what is to be done. The engine runs it, remembers `fenced_at`, and while that is set takes
`effective(mapping, fenced=True)` wherever rows or objects are touched: the physical names differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from zdm.model.expression import ColumnRef, Expression
from zdm.model.mapping import Authority, ColumnGroup, Expose, TableMapping
from zdm.model.names import QualifiedName, fit, qualified, sql_name
from zdm.model.plan import Plan
from zdm.model.row_mapping import ElementColumn, Elements, MirroredColumn, RowMapping, RowsQuery, RowsRef
from zdm.model.step import Lock, TableLock, Transaction
from zdm.sql import views

PREFIX: Final = "_zdm_fenced_"

Install = Callable[[TableMapping, Authority], Sequence[str]]
"""The statements that install (or replace) the sync functions and triggers of a table, its row mappings' included."""


@dataclass(frozen=True, slots=True)
class FencePart:
    """One transaction of raising or lifting the fence.

    done_when: a query of one boolean: the part has been done. It settles an unknown outcome and makes a repeat skip it.
    schema: the version schema that it renames, by its own name; other rollouts may have set the same one aside.
    """

    title: str
    action: Transaction
    done_when: str
    schema: str = ""


def aside(name: str) -> str:
    """The name that `name` has while the fence stands."""
    return fit(PREFIX + name)


# --- what is fenced ---------------------------------------------------------------------------------------------------


def fenced_columns(mapping: TableMapping) -> tuple[str, ...]:
    """The physical columns whose present name only the old version uses: replaced, dropped and renamed ones."""
    if mapping.dropped_in_new:
        return ()
    kept = {(column.physical, column.name) for column in mapping.new_columns}
    if mapping.expose is Expose.COLUMNS:
        # The new application uses the table itself: what the new version shows at all keeps its name until cleanup.
        shown = {physical for physical, _ in kept}
        return tuple(c.physical for c in mapping.old_columns if c.physical not in shown)
    return tuple(c.physical for c in mapping.old_columns if (c.physical, c.name) not in kept)


def fences_table(mapping: TableMapping) -> bool:
    """Whether the table's own name is used by the old version alone: the new one has no such table, or by another name."""
    if mapping.dropped_in_new:
        return True
    return mapping.final_name != mapping.table.name and mapping.expose is Expose.VIEWS


def old_schemas(plan: Plan) -> tuple[str, ...]:
    """The version schemas that cleanup drops: the old version's, and those of earlier rollouts that stand on the same tables."""
    return tuple(dict.fromkeys(schema for schema in (plan.old_schema, *plan.previous_schemas) if schema))


def is_fenceable(plan: Plan) -> bool:
    """Whether the old version has any name of its own; if not, there is nothing to fence and nothing to miss."""
    return bool(old_schemas(plan)) or any(fences_table(m) or fenced_columns(m) for m in plan.mappings)


def effective(mapping: TableMapping, *, fenced: bool) -> TableMapping:
    """The mapping under the physical names of the moment: as planned, or as they are while the fence stands."""
    return _fenced(mapping) if fenced else mapping


def effective_rows(rows: RowMapping, plan: Plan, *, fenced: bool) -> RowMapping:
    """The row mapping under the physical names of the moment; only its old side can be set aside."""
    if not fenced:
        return rows
    try:
        planned = plan.mapping(rows.old.table)
    except KeyError:
        return rows
    now = _fenced(planned)
    names = {column: aside(column) for column in fenced_columns(planned)}
    old = rows.old.model_copy(
        update={
            "table": now.table,
            "key": tuple(names.get(name, name) for name in rows.old.key),
            "required": tuple(names.get(name, name) for name in rows.old.required),
            "columns": tuple(
                c.model_copy(
                    update={
                        "name": names.get(c.name, c.name),
                        **_own(c, names, whole=rows.parent is not None),
                    }
                )
                for c in rows.old.columns
            ),
        }
    )
    new = rows.new.model_copy(
        update={
            "key_values": tuple(_renamed(value, names) for value in rows.new.key_values),
            "columns": tuple(
                c.model_copy(update={"value": _renamed(c.value, names)}) for c in rows.new.columns
            ),
        }
    )
    where = _fenced_expression(rows.where, names)
    parent = rows.parent
    if parent is not None:
        values = tuple(_renamed(value, names) for value in parent.key_values)
        parent = parent.model_copy(update={"key_values": values})
    elements = rows.elements
    if elements is not None:
        elements = _fenced_elements(elements, names)
    return rows.model_copy(
        update={"old": old, "new": new, "where": where, "parent": parent, "elements": elements}
    )


def _fenced_elements(elements: Elements, names: dict[str, str]) -> Elements:
    def query(found: RowsQuery) -> RowsQuery:
        parts = tuple(
            part.model_copy(
                update={"columns": tuple((shown, names.get(name, name)) for shown, name in part.columns)}
            )
            if isinstance(part, RowsRef) and elements.is_old(part.of)
            else part
            for part in found.parts
        )
        return found.model_copy(update={"parts": parts})

    update: dict[str, object] = {
        name: query(found)
        for name, found in (("split", elements.split), ("join", elements.join))
        if found is not None
    }

    def named(columns: tuple[ElementColumn, ...]) -> tuple[ElementColumn, ...]:
        return tuple(c.model_copy(update={"name": names.get(c.name, c.name)}) for c in columns)

    if elements.one == "old":
        update["held"] = named(elements.held)
    else:
        update["of"] = tuple(names.get(name, name) for name in elements.of)
        update["key"] = tuple(names.get(name, name) for name in elements.key)
        update["columns"] = named(elements.columns)
        update["where"] = _fenced_expression(elements.where, names)
        update["append"] = tuple((names.get(name, name), value) for name, value in elements.append)
    return elements.model_copy(update=update)


def _own(column: MirroredColumn, names: dict[str, str], *, whole: bool) -> dict[str, object]:
    """What reads the column's own row; `whole`: of a mapping of many to one all that is not marked as the parent's does."""
    return {
        "value": _renamed(column.value, names, names if whole else {}),
        "cleared": _fenced_expression(column.cleared, names),
    }


def _fenced(mapping: TableMapping) -> TableMapping:
    names = {column: aside(column) for column in fenced_columns(mapping)}
    table = (
        qualified(mapping.table.schema_, aside(mapping.table.name))
        if fences_table(mapping)
        else mapping.table
    )
    return mapping.model_copy(
        update={
            "table": table,
            "key": tuple(names.get(column, column) for column in mapping.key),
            "guarded": tuple(tuple(names.get(column, column) for column in key) for key in mapping.guarded),
            "groups": tuple(_fenced_group(group, names) for group in mapping.groups),
            "old_columns": tuple(
                c.model_copy(update={"physical": names.get(c.physical, c.physical)})
                for c in mapping.old_columns
            ),
            "new_columns": tuple(
                c.model_copy(update={"physical": names.get(c.physical, c.physical)})
                for c in mapping.new_columns
            ),
        }
    )


def _fenced_group(group: ColumnGroup, names: dict[str, str]) -> ColumnGroup:
    old = tuple(
        column.model_copy(
            update={
                "name": names.get(column.name, column.name),
                "down": _fenced_expression(column.down, names),
            }
        )
        for column in group.old
    )
    new = tuple(
        column.model_copy(update={"up": _fenced_expression(column.up, names)}) for column in group.new
    )
    parent = group.parent
    if parent is not None:
        parent = parent.model_copy(
            update={
                "key_values": tuple(_renamed(value, names) for value in parent.key_values),
                "where": _fenced_expression(parent.where, names),
            }
        )
    copied = group.copied
    if copied is not None:
        by = tuple((names.get(own, own), name) for own, name in copied.by)
        copied = copied.model_copy(update={"by": by})
    return group.model_copy(update={"old": old, "new": new, "parent": parent, "copied": copied})


def _fenced_expression(expression: Expression | None, names: dict[str, str]) -> Expression | None:
    return None if expression is None else _renamed(expression, names)


def _renamed(
    expression: Expression, names: dict[str, str], others: dict[str, str] | None = None
) -> Expression:
    """The expression with the columns by their present names; those of another row by `others`, where it reads two."""
    theirs = names if others is None else others
    parts = tuple(
        part.model_copy(update={"column": (names if part.own else theirs).get(part.column, part.column)})
        if isinstance(part, ColumnRef)
        else part
        for part in expression.parts
    )
    return expression.model_copy(update={"parts": parts})


# --- raising and lifting ----------------------------------------------------------------------------------------------


def raise_fence(plan: Plan, authority: Authority, install: Install) -> tuple[FencePart, ...]:
    """What raises the fence, each part a transaction of its own (one table's lock at a time); repeatable.

    Parameters
    ----------
    authority: which side wins at present; the sync functions are replaced under it.
    install: see `Install`; called with the mapping of after the part.
    """
    parts = [
        _rename_schema(schema, schema, aside(schema), f"set version schema {sql_name(schema)} aside")
        for schema in old_schemas(plan)
    ]
    for mapping in plan.mappings:
        statements = _aside_statements(mapping)
        if not statements:
            continue
        new = effective(mapping, fenced=True)
        statements += install(new, authority)
        statements += _stamps(plan, mapping)
        parts.append(
            FencePart(
                title=f"set the old names of {mapping.table} aside",
                action=_brief(mapping.table, statements),
                done_when=_named(
                    mapping, new.table.name, [aside(column) for column in fenced_columns(mapping)]
                ),
            )
        )
    return tuple(parts)


def lift_fence(plan: Plan, authority: Authority, install: Install) -> tuple[FencePart, ...]:
    """What lifts the fence again: the same parts backwards."""
    parts: list[FencePart] = []
    for mapping in reversed(plan.mappings):
        statements = lift_statements(mapping)
        if not statements:
            continue
        statements += install(mapping, authority)
        statements += _stamps(plan, mapping)
        parts.append(
            FencePart(
                title=f"bring the old names of {mapping.table} back",
                action=_brief(effective(mapping, fenced=True).table, statements),
                done_when=_named(mapping, mapping.table.name, fenced_columns(mapping)),
            )
        )
    back = [
        _rename_schema(schema, aside(schema), schema, f"bring version schema {sql_name(schema)} back")
        for schema in reversed(old_schemas(plan))
    ]
    return (*parts, *back)


def lift_statements(mapping: TableMapping) -> list[str]:
    """The renames that lift one table's fence and nothing else: what a swap that drops the old side anyway runs first."""
    new = effective(mapping, fenced=True)
    statements: list[str] = []
    if new.table != mapping.table:
        statements.append(_rename_table(new.table, mapping.table.name))
    return statements + [
        _rename_column(mapping.table, aside(column), column) for column in fenced_columns(mapping)
    ]


def standing(plan: Plan) -> str:
    """A query of one boolean: the fence stands, wholly. NULL-free; false as well where only a part of it stands."""
    checks = [sql.SQL(part.done_when) for part in raise_fence(plan, Authority.NEW, lambda *_: ())]
    if not checks:
        return "SELECT false"
    return (
        sql.SQL("SELECT {}")
        .format(sql.SQL(" AND ").join(sql.SQL("({})").format(c) for c in checks))
        .as_string(None)
    )


def touched(plan: Plan) -> str:
    """A query of one boolean: some part of the fence stands, so at least one name is set aside.

    Schemas of earlier rollouts count only where there is no other: another rollout's fence may have set them aside.
    """
    schemas = [plan.old_schema] if plan.old_schema else list(plan.previous_schemas)
    checks = [
        sql.SQL("EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = ANY ({}::text[]))").format(
            sql.Literal([aside(schema) for schema in schemas])
        )
    ]
    checks += [
        sql.SQL(
            "EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = {oid} AND attname = ANY ({columns}::text[])"
            " AND NOT attisdropped) OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = {oid} AND relname = {table})"
        ).format(
            oid=sql.Literal(mapping.oid),
            columns=sql.Literal([aside(column) for column in fenced_columns(mapping)]),
            table=sql.Literal(aside(mapping.table.name)),
        )
        for mapping in plan.mappings
    ]
    return sql.SQL("SELECT {}").format(sql.SQL(" OR ").join(checks)).as_string(None)


def obstacles(plan: Plan) -> str:
    """A query of (kind, name, column): what the fence, and later cleanup, would break although it is not the old application.

    Functions of the application's own triggers on the table that mention a fenced column (they run for the new
    application's writes as well, so those would fail), and publications (a subscriber finds its columns by name).
    """
    queries = [
        _obstacles(mapping) for mapping in plan.mappings if fenced_columns(mapping) or fences_table(mapping)
    ]
    if not queries:
        return "SELECT NULL::text, NULL::text, NULL::text WHERE false"
    return sql.SQL(" UNION ALL ").join(queries).as_string(None)


_OBSTACLES: Final[LiteralString] = """
SELECT 'trigger function', p.oid::pg_catalog.regprocedure::text, c.name
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
CROSS JOIN ROWS FROM (pg_catalog.unnest({columns}::text[]), pg_catalog.unnest({patterns}::text[])) AS c (name, pattern)
WHERE t.tgrelid = {oid}::pg_catalog.oid AND NOT t.tgisinternal AND t.tgname NOT LIKE '~zdm%' AND t.tgname NOT LIKE '!zdm%'
  AND t.tgenabled <> 'D'
  AND p.prosrc ~* c.pattern
UNION ALL
SELECT 'publication', pub.pubname::text, NULL
FROM pg_catalog.pg_publication AS pub
WHERE EXISTS (SELECT FROM pg_catalog.pg_get_publication_tables(pub.pubname) AS g WHERE g.relid = {oid}::pg_catalog.oid)
"""


def _obstacles(mapping: TableMapping) -> sql.Composed:
    columns = list(fenced_columns(mapping))
    patterns = [
        r"\m" + "".join(c if c.isalnum() or c == "_" else f"\\{c}" for c in name) + r"\M" for name in columns
    ]
    return sql.SQL(_OBSTACLES).format(
        oid=sql.Literal(mapping.oid), columns=sql.Literal(columns), patterns=sql.Literal(patterns)
    )


def _aside_statements(mapping: TableMapping) -> list[str]:
    statements = [_rename_column(mapping.table, column, aside(column)) for column in fenced_columns(mapping)]
    if fences_table(mapping):
        statements.append(_rename_table(mapping.table, aside(mapping.table.name)))
    return statements


def _stamps(plan: Plan, mapping: TableMapping) -> list[str]:
    """The hashes in the views' comments, made anew: the columns beneath them have other names now.

    A view that is not there is left out: lifting must work whatever else somebody did.
    """
    found: list[str] = []
    for schema, old in ((aside(plan.old_schema) if plan.old_schema else "", True), (plan.new_schema, False)):
        if not schema or not views.has_view(mapping, old=old):
            continue
        name = views.view_name(mapping, schema, old=old)
        body = sql.SQL(
            "BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
            "WHERE n.nspname = {schema} AND c.relname = {name} AND c.relkind = 'v') THEN EXECUTE {stamp}; END IF; END"
        ).format(
            schema=sql.Literal(name.schema_),
            name=sql.Literal(name.name),
            stamp=sql.Literal(views.stamp_view(mapping, schema, old=old)),
        )
        found.append(sql.SQL("DO {}").format(sql.Literal(body.as_string(None))).as_string(None))
    return found


def _brief(table: QualifiedName, statements: Sequence[str]) -> Transaction:
    return Transaction(
        statements=tuple(statements), locks=(TableLock(table=table, mode=Lock.ACCESS_EXCLUSIVE),)
    )


def _named(mapping: TableMapping, table: str, columns: Sequence[str]) -> str:
    query = sql.SQL(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = {oid} AND relname = {table}) AND {count} = ("
        "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = {oid} AND attname = ANY ({columns}::text[]) "
        "AND NOT attisdropped)"
    )
    return query.format(
        oid=sql.Literal(mapping.oid),
        table=sql.Literal(table),
        count=sql.Literal(len(columns)),
        columns=sql.Literal(list(columns)),
    ).as_string(None)


def _rename_schema(schema: str, old: str, new: str, title: str) -> FencePart:
    # A schema's rename takes no lock on what is in it; cached plans are made anew, and then do not find the name.
    statement = sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    # A schema that is under neither name went with another rollout's cleanup: nobody can use it, and it cannot come back.
    done = sql.SQL("SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {})").format(
        sql.Literal(old)
    )
    return FencePart(
        title=title,
        action=Transaction(statements=(statement.as_string(None),)),
        done_when=done.as_string(None),
        schema=schema,
    )


def _rename_column(table: QualifiedName, old: str, new: str) -> str:
    return (
        sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}")
        .format(sql.Identifier(table.schema_, table.name), sql.Identifier(old), sql.Identifier(new))
        .as_string(None)
    )


def _rename_table(table: QualifiedName, new: str) -> str:
    return (
        sql.SQL("ALTER TABLE {} RENAME TO {}")
        .format(sql.Identifier(table.schema_, table.name), sql.Identifier(new))
        .as_string(None)
    )
