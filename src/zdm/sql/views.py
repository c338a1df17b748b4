"""Version schemas and the views in them.

A version view shows the table as one version of the application knows it: plain columns in that version's order, under
its names and with its defaults, so PostgreSQL itself updates the table through it. It runs with the rights of whoever uses
it (15 and later), has the table's owner and grants, and carries a comment by which it is recognised as zdm's.

All statements are fixed texts that are right when they run: what depends on the catalogs of that moment (grants, owner) is
looked up by a DO block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from psycopg import sql

from zdm.model.mapping import NEW_ORIGIN, Expose, TableMapping, ViewColumn
from zdm.model.names import QualifiedName, qualified
from zdm.sql.identifiers import comma, qualified_name, trusted
from zdm.sql.templates import dollar_quoted, load

SECURITY_INVOKER = 150000
"""The first version whose views can run with the rights of whoever uses them."""

_SCHEMA_LABEL = "zdm version schema"
_VIEW_LABEL = "zdm version view "


def create_schema(schema: str, target: str) -> tuple[str, ...]:
    """What makes a version schema of the schema `target`, if it is not there. Repeatable."""
    return (
        _text(
            dollar_quoted(
                "schema_create",
                schema=sql.Literal(schema),
                target=sql.Literal(target),
                label=sql.Literal(_SCHEMA_LABEL),
            )
        ),
    )


def drop_schema(schema: str, needed: sql.Composable | None = None) -> tuple[str, ...]:
    """What drops zdm's views in a version schema, and the schema itself if zdm made it and it is then empty. Repeatable.

    Parameters
    ----------
    needed: a condition under which nothing is dropped.
    """
    return (
        _text(
            dollar_quoted(
                "schema_drop",
                schema=sql.Literal(schema),
                label=sql.Literal(_SCHEMA_LABEL),
                views=sql.Literal(_VIEW_LABEL),
                needed=needed or sql.SQL("false"),
            )
        ),
    )


def needed_by_others(schema: str, migration: str, target: str) -> sql.Composable:
    """Whether another rollout that has begun and not ended has a version schema of an earlier one for its old version."""
    return sql.SQL(
        "EXISTS (SELECT FROM zdm.module_migrations AS m JOIN zdm.phase_states AS s ON s.state = m.state AND s.active"
        " WHERE m.plan @> {} AND (m.migration, m.target) <> ({}, {}))"
    ).format(
        sql.SQL("{}::pg_catalog.jsonb").format(sql.Literal(json.dumps({"previous_schemas": [schema]}))),
        sql.Literal(migration),
        sql.Literal(target),
    )


def view_name(mapping: TableMapping, schema: str, *, old: bool = False) -> QualifiedName:
    """The name of the mapping's view in a version schema."""
    return qualified(schema, mapping.table.name if old else mapping.final_name)


def has_view(mapping: TableMapping, *, old: bool = False) -> bool:
    """Whether that version has a view of the table: none if the migration exposes columns, or the version has no such table."""
    return mapping.expose is Expose.VIEWS and (old or not mapping.dropped_in_new)


def create_view(
    mapping: TableMapping, schema: str, server_version: int, *, old: bool = False
) -> tuple[str, ...]:
    """What makes the view of one version (the new one, unless `old`) of a table, with defaults, owner, grants and comment.

    Takes ACCESS SHARE on the table. Returns nothing if that version has no view.
    """
    if not has_view(mapping, old=old):
        return ()
    name = view_name(mapping, schema, old=old)
    view, columns = qualified_name(name), _columns(mapping, old=old)
    options = " WITH (security_invoker = true)" if server_version >= SECURITY_INVOKER else ""
    create = load("view_create").fill(
        view=view,
        options=trusted(options),
        columns=comma(
            sql.SQL("{} AS {}").format(sql.Identifier(c.physical), sql.Identifier(c.name)) for c in columns
        ),
        table=qualified_name(mapping.table),
    )
    statements: list[sql.Composable] = [create]
    statements += [_default(name, column, column.default) for column in columns if column.default is not None]
    statements.append(_grants(mapping, name, columns))
    return (*map(_text, statements), stamp_view(mapping, schema, old=old))


def stamp_view(mapping: TableMapping, schema: str, *, old: bool = False) -> str:
    """What comments a view with the hash of its present definition: also after columns beneath it were renamed."""
    view = qualified_name(view_name(mapping, schema, old=old))
    return _text(
        dollar_quoted(
            "view_stamp", view=sql.Literal(_text(view)), label=sql.Literal(view_label(mapping, old=old))
        )
    )


def drop_view(mapping: TableMapping, schema: str, *, old: bool = False) -> tuple[str, ...]:
    """What drops one version view, whether it is there or not."""
    name = view_name(mapping, schema, old=old)
    return (_text(sql.SQL("DROP VIEW IF EXISTS {}").format(qualified_name(name))),)


def view_label(mapping: TableMapping, *, old: bool = False) -> str:
    """How the comment of a version view begins; the server's own hash of its definition follows there."""
    shown = [[c.name, c.default] for c in _columns(mapping, old=old)]
    source = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
    return f"{_VIEW_LABEL}{'before' if old else 'after'} source {source} server "


def state_query(schemas: Iterable[str]) -> str:
    """A query of (schema, name, comment, hash) over all views in `schemas`: run it with an empty search_path."""
    return _text(
        sql.SQL(
            "SELECT n.nspname::text, c.relname::text, pg_catalog.obj_description(c.oid, 'pg_class'),"
            " encode(sha256(convert_to(pg_catalog.pg_get_viewdef(c.oid), 'UTF8')), 'hex')"
            " FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'v' AND n.nspname = ANY ({}::text[])"
        ).format(sql.Literal(list(schemas)))
    )


def findings(
    expected: dict[QualifiedName, str], found: Iterable[tuple[str, str, str | None, str]]
) -> list[str]:
    """What is not as it must be: `expected` maps each view's name to its `view_label`. Empty if all is well."""
    there = {qualified(schema, name): (comment or "", digest) for schema, name, comment, digest in found}
    problems: list[str] = []
    for name, label in expected.items():
        comment, digest = there.get(name, (None, ""))
        if comment is None:
            problems.append(f"view {name} is missing")
        elif not comment.startswith(label):
            problems.append(f"view {name} is not the one this rollout made")
        elif comment != label + digest:
            problems.append(f"view {name} was edited")
    return problems


def _columns(mapping: TableMapping, *, old: bool) -> tuple[ViewColumn, ...]:
    if old:
        return mapping.old_columns
    if not mapping.marker_in_view:
        return mapping.new_columns
    marker = ViewColumn(physical=mapping.marker, name=mapping.marker, default=str(NEW_ORIGIN))
    return (*mapping.new_columns, marker)


def _default(view: QualifiedName, column: ViewColumn, default: str) -> sql.Composable:
    if default.strip().upper() == "NULL":
        return dollar_quoted(
            "view_no_default", view=sql.Literal(_text(qualified_name(view))), column=sql.Literal(column.name)
        )
    return load("view_default").fill(
        view=qualified_name(view),
        column=sql.Identifier(column.name),
        default=sql.SQL("({})").format(trusted(default)),
    )


def _grants(mapping: TableMapping, view: QualifiedName, columns: Iterable[ViewColumn]) -> sql.Composable:
    made_from = {
        n.name: [o.name for o in group.old] for group in mapping.groups for n in group.new if group.old
    }
    rights = [
        {"name": c.name, "physical": c.physical, "sources": made_from.get(c.physical, [c.physical])}
        for c in columns
    ]
    return dollar_quoted(
        "view_grants",
        view=sql.Literal(_text(qualified_name(view))),
        table=_source(mapping),
        columns=sql.SQL("{}::pg_catalog.jsonb").format(sql.Literal(json.dumps(rights, ensure_ascii=False))),
    )


def _source(mapping: TableMapping) -> sql.Composable:
    """The table's oid; by its name where the migration itself creates it, so that nobody knows the number yet."""
    if mapping.oid:
        return sql.Literal(mapping.oid)
    name = sql.Literal(_text(qualified_name(mapping.table)))
    return sql.SQL("{}::pg_catalog.regclass").format(name)


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)
