"""Rows that a table which the migration makes would refuse, since they refer to nothing: counted before anything changes."""

from __future__ import annotations

from datetime import timedelta

import psycopg
from psycopg import sql

from zdm.db.session import transaction
from zdm.engine.mapper import Mapper
from zdm.engine.row_measure import made_rows
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import RowMapping
from zdm.operations.rows import DraftRows, Reference
from zdm.sql import element_rows
from zdm.sql.identifiers import all_of, column, comma, qualified_name

_PATIENCE = timedelta(seconds=10)
"""For how long it is counted, as of any other constraint."""

_SAMPLES = 3


def measure_orphans(mapper: Mapper, mapping: RowMapping, asked: DraftRows) -> None:
    """Tell how many rows of today would break a foreign key of the table that gets them. They are only read."""
    for reference in asked.new.refers:
        source = _source(mapping, reference)
        if source is None or reference.table not in mapper.draft.tables:
            continue
        text = _counted(mapper, mapping, reference, source)
        if text:
            mapper.findings.append(
                Finding(
                    severity=Severity.WARNING,
                    text=text,
                    where=mapping.operation,
                    rule="rows-break-constraint",
                )
            )


def _source(mapping: RowMapping, reference: Reference) -> sql.Composable | None:
    """FROM and WHERE of the rows that there would be, whose columns ``zdm_n`` has by the names that they get; None if not all of these follow from others."""
    elements = mapping.elements
    if elements is None:
        known = {*mapping.new.key, *(c.name for c in mapping.new.columns)}
        return made_rows(mapping) if known.issuperset(reference.columns) else None
    if elements.split is None:
        return None
    names = {name: f"zdm_k{number}" for number, name in enumerate(elements.of)}
    names |= {c.name: f"zdm_c{number}" for number, c in enumerate(elements.columns)}
    if not names.keys() >= set(reference.columns):
        return None
    return sql.SQL("FROM (SELECT {} FROM ({}) AS zdm_q) AS zdm_n WHERE true").format(
        comma(sql.SQL("{} AS {}").format(column(names[name]), column(name)) for name in reference.columns),
        element_rows.split_all(mapping, sql.SQL("true"), "zdm_o"),
    )


def _counted(mapper: Mapper, mapping: RowMapping, reference: Reference, source: sql.Composable) -> str:
    """What there is to say; nothing if there are none."""
    said = sql.SQL(" || ', ' || ").join(
        sql.SQL("{} || {}::text").format(sql.Literal(f"{name}="), column(name, "zdm_n"))
        for name in reference.columns
    )
    query = sql.SQL(
        "SELECT pg_catalog.count(*), (pg_catalog.array_agg(DISTINCT {said}))[1:{samples}] {source} AND {filled}"
        " AND NOT EXISTS (SELECT FROM {there} AS zdm_r WHERE {same})"
    ).format(
        said=said,
        samples=sql.Literal(_SAMPLES),
        source=source,
        filled=all_of(sql.SQL("{} IS NOT NULL").format(column(name, "zdm_n")) for name in reference.columns),
        there=qualified_name(reference.table),
        # As the server would compare them: the operator may be an extension's.
        same=all_of(
            sql.SQL("{} = {}").format(column(there, "zdm_r"), column(name, "zdm_n"))
            for name, there in zip(reference.columns, reference.referenced, strict=True)
        ),
    )
    made, refused = mapping.new.table, f"{reference.name} of {mapping.new.table}"
    try:
        with transaction(mapper.conn, read_only=True, rollback=True, statement_timeout=_PATIENCE):
            row = mapper.conn.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        return f"which rows break {refused} was not counted, since it takes longer than {_PATIENCE.total_seconds():g} s; the backfill stops at them"
    except psycopg.DataError:
        # Rows that have no form at all are told of where they are tried.
        return ""
    except psycopg.errors.ProgrammingError as error:
        return f"which rows break {refused} was not counted ({error.diag.message_primary}); the backfill stops at them"
    assert row is not None
    count, samples = row
    if not count:
        return ""
    return (
        f"{count} rows that {mapping.old.table} makes in {made} break {refused} as things are: {reference.table} has not what they refer to "
        f"(for example {'; '.join(samples)}). The backfill stops at them, and names them, until they are corrected; or let the mapping leave them out"
    )
