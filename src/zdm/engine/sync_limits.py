"""What the server's own rules keep a table's sync triggers from: refused by name before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zdm.db.session import Session
from zdm.errors import Problem
from zdm.model.expression import Expression
from zdm.model.mapping import Expose
from zdm.operations.shape import TableShape
from zdm.sql.partitions import over_family

MOST_COLUMNS = 1600
"""What the server allows, dropped columns counted."""
OUR_TRIGGERS = b"~zdm_1"
"""How the first of the sync triggers' names begins; the server fires triggers in the bytewise order of their names."""

_COLUMNS_THERE = """
SELECT c.oid::pg_catalog.regclass::text, max(a.attnum), count(*) FILTER (WHERE a.attisdropped)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.oid IN {family} GROUP BY c.oid ORDER BY 2 DESC LIMIT 1
"""


def hindered_sync(conn: Session, shape: TableShape) -> Iterator[Problem]:
    """Triggers that come after ours, and views that could not keep row security, would break the promise silently."""
    label = shape.groups[0].operation
    own = [(shape.name, trigger) for trigger in shape.table.triggers]
    own += [(part.name, trigger) for part in shape.table.partitions for trigger in part.triggers]
    for table, trigger in own:
        if trigger.row and trigger.timing == "before" and trigger.name.encode() > OUR_TRIGGERS:
            yield Problem(
                f"the trigger {trigger.name} of {table} fires after zdm's, so what it changes would not be synced",
                label,
                f"Rename it to sort before {OUR_TRIGGERS.decode()} (ALTER TRIGGER … RENAME TO …).",
                "trigger-sorts-last",
            )
    if shape.table.row_security and shape.expose is Expose.VIEWS:
        if conn.info.server_version < 150000:
            yield Problem(
                f"{shape.name} has row security, which views keep only from PostgreSQL 15 on",
                label,
                "Use `expose: columns`, or upgrade the server first.",
                "row-security-views",
            )
        if any(item for column in shape.table.columns for item in column.acl):
            yield Problem(
                f"{shape.name} has both row security and grants on single columns, which no view can keep together",
                label,
                "Use `expose: columns`, or grant the whole table.",
                "row-security-views",
            )


def too_many_columns(conn: Session, shape: TableShape) -> Iterator[Problem]:
    """The server counts every column that a table ever had; on a partition they may be more than on the table."""
    added = len(shape.all_new()) + (1 if shape.groups else 0)
    if not added:
        return
    row = conn.execute(over_family(_COLUMNS_THERE, shape.table.oid)).fetchone()
    if row is not None and row[1] + added > MOST_COLUMNS:
        name, there, dropped = row
        yield Problem(
            f"{name} has {there} columns, {dropped} dropped ones included, and would need {added} more; a table can have "
            f"{MOST_COLUMNS}",
            next((group.operation for group in shape.groups), str(shape.name)),
            "Map fewer columns at a time; if dropped ones fill the table, move its rows to a new one.",
            "too-many-columns",
        )


def not_null_domains(conn: Session, shape: TableShape) -> Iterator[Problem]:
    """The server checks a domain's NOT NULL before any trigger runs, so a row of the new version could not be inserted."""
    rows = conn.execute(
        """SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a
           JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
           WHERE a.attrelid = %s AND a.attname = ANY (%s) AND t.typnotnull AND t.typdefault IS NULL AND NOT a.atthasdef""",
        [shape.table.oid, [name for group in shape.groups for name in group.old]],
    )
    for name, domain in rows:
        group = shape.group_of(name)
        yield Problem(
            f"{name} is of the domain {domain}, which refuses NULL before any trigger can give it a value, so rows of "
            "the new version could not be inserted",
            group.operation if group is not None else str(shape.name),
            f"Give {name} a default, or the domain, until cleanup; or move NOT NULL from the domain to the column.",
            "not-null-domain",
        )


def reads_generated(shape: TableShape, expressions: Iterable[tuple[str, Expression]]) -> Iterator[Problem]:
    """A generated column has its value only after the triggers have run."""
    generated = {column.name for column in shape.table.columns if column.generated}
    for target, expression in expressions:
        for name in sorted(generated.intersection(expression.columns)):
            group = shape.group_of(target)
            yield Problem(
                f"{expression.source!r} reads the generated column {name}, which is computed only after triggers",
                group.operation if group is not None else str(shape.name),
                f"Write the expression that {name} is generated from instead.",
                "reads-generated-column",
            )
