"""The statements that make a table which takes another one's place."""

from __future__ import annotations

from psycopg import sql

from zdm.errors import Problem
from zdm.model.names import chosen_by_server, fit
from zdm.operations import ddl
from zdm.operations.base import Draft
from zdm.operations.shadow_keys import is_gone
from zdm.operations.shadow_params import ShadowParams
from zdm.operations.shadows import Shadow, ShadowColumn, literal
from zdm.sql.templates import dollar_quoted


def create(asked: ShadowParams, draft: Draft, shadow: Shadow, problems: list[Problem]) -> None:
    """Give `shadow` the statements that make it."""
    table, t = shadow.old, ddl.table(shadow.name)
    left = {*asked.without, *draft.shapes[table.name].gone_constraints}
    parts: list[sql.Composable] = [_definition(shadow, c) for c in shadow.columns]
    primary = next((c.name for c in table.constraints if c.kind == "primary key"), None)
    parts.append(
        sql.SQL("CONSTRAINT {} PRIMARY KEY ({})").format(
            ddl.ident(primary or fit(f"{table.name.name}_pkey")), ddl.idents(shadow.key)
        )
    )
    for c in table.constraints:
        if c.kind not in {"check", "exclusion"} or c.name in left:
            continue
        if is_gone(asked, c.columns, f"the {c.kind} {c.name}", table, problems):
            continue
        if not c.validated:
            problems.append(
                Problem(
                    f"the {c.kind} {c.name} of {table.name} is NOT VALID: rows that break it could not be made in the new table",
                    remedy=f"Validate {c.name} first, or name it in `without`.",
                    rule="cannot-be-carried",
                )
            )
            continue
        parts.append(sql.SQL("CONSTRAINT {} {}").format(ddl.ident(c.name), ddl.raw(c.definition)))
    parts += [
        sql.SQL("CONSTRAINT {} CHECK ({})").format(ddl.ident(c.name), ddl.raw(c.check)) for c in asked.checks
    ]
    parts += [
        sql.SQL("CONSTRAINT {} EXCLUDE {}").format(ddl.ident(c.name), ddl.raw(c.exclude))
        for c in asked.exclusion
    ]
    tail = sql.Composed([])
    if asked.partition_by is not None:
        tail += sql.SQL(" PARTITION BY {} ({})").format(
            sql.SQL(asked.partition_by.by.upper()), ddl.idents(asked.partition_by.columns)
        )
    if asked.using is not None:
        tail += sql.SQL(" USING {}").format(ddl.ident(asked.using))
    if asked.tablespace is not None:
        tail += sql.SQL(" TABLESPACE {}").format(ddl.ident(asked.tablespace))
    shadow.create = [
        *ddl.in_target(
            draft.target,
            ddl.text("CREATE TABLE {t} ({parts}){tail}", t=t, parts=sql.SQL(", ").join(parts), tail=tail),
            *(one.create(shadow.name) for one in shadow.partitions),
        ),
        dollar_quoted(
            "shadow_dress",
            old=sql.SQL("{}::pg_catalog.regclass").format(literal(table.name)),
            new=sql.SQL("{}::pg_catalog.regclass").format(literal(shadow.name)),
        ).as_string(None),
    ]
    if asked.storage:
        settings = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(_option(name), sql.Literal(value))
            for name, value in asked.storage.items()
        )
        held = [p.name for p in shadow.partitions] or [shadow.name]
        shadow.create += [
            ddl.text("ALTER TABLE {t} SET ({s})", t=ddl.table(name), s=settings) for name in held
        ]


def _definition(shadow: Shadow, column: ShadowColumn) -> sql.Composed:
    table = shadow.old
    pieces: list[sql.Composable] = [ddl.definition(column.name, column.type, column.collation)]
    source = column.source
    if source is not None and source.generated:
        stored = "STORED" if source.generated == "stored" else "VIRTUAL"
        pieces.append(
            sql.SQL("GENERATED ALWAYS AS ({}) {}").format(ddl.raw(source.default or "NULL"), sql.SQL(stored))
        )
    elif column.default is not None:
        pieces.append(sql.SQL("DEFAULT ({})").format(ddl.raw(column.default)))
    if column.not_null or column.name in shadow.key:
        named = next(
            (c.name for c in table.constraints if c.kind == "not null" and c.columns == (column.name,)),
            None,
        )
        pieces.append(
            sql.SQL("CONSTRAINT {} NOT NULL").format(
                ddl.ident(named or chosen_by_server(table.name.name, column.name, "not_null"))
            )
        )
    return sql.SQL(" ").join(pieces)


def _option(name: str) -> sql.Composable:
    """A storage parameter, which may have a namespace: toast.autovacuum_enabled."""
    space, dot, rest = name.partition(".")
    return sql.Identifier(space) + sql.SQL(".") + sql.Identifier(rest) if dot else sql.Identifier(name)
