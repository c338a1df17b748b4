"""A mapping of one row to many tried on real rows: what has no form in the new version, and what would not come back as it was."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from zdm.db.session import transaction
from zdm.engine.collapsed_measure import measure_collapsed
from zdm.engine.mapper import Mapper
from zdm.engine.trial import SAMPLE, an_element, no_form, otherwise, sample, tell_failed, tried
from zdm.errors import Problem
from zdm.model.expression import Expression
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import Elements, RowMapping
from zdm.sql import element_rows, group_sync
from zdm.sql.element_rows import one_to_many
from zdm.sql.identifiers import column, comma, differs, qualified_name, without_length
from zdm.sql.rows import render
from zdm.sql.trial import trial


def of_nothing(mapper: Mapper, mapping: RowMapping, empty: Mapping[str, Expression]) -> None:
    """A row of the new version that has no elements yet must not get some of what its columns hold until then; of their defaults it may."""
    table = mapper.draft.tables[mapping.source.table]
    held = [c.name for c in one_to_many(mapping).held]
    lent = {name: value.render(sql.Identifier) for name, value in empty.items()}
    given = {c.name: sql.SQL(c.default) for c in table.columns if c.name in held and c.default is not None}
    reason = f"`up` makes elements of what {', '.join(empty)} is empty with"
    try:
        found = bool(lent) and _says(mapper, mapping, lent) and not _says(mapper, mapping, {})
    except psycopg.DataError as error:
        found, reason = True, f"{reason.replace('makes elements', 'raises')}: {error.diag.message_primary}"
    if found:
        mapper.problems.append(
            Problem(
                f"{reason}, so that a row of the new version that has none would have them",
                mapping.operation,
                "Let `up` leave that value out, as in SELECT author WHERE author <> '', or give another `empty`.",
            )
        )
        return
    try:
        by_default = bool(given) and _says(mapper, mapping, {**given, **lent})
    except psycopg.Error:
        # Some row of the old version would raise as well: it is told of where rows are tried.
        return
    if by_default:
        mapper.findings.append(
            Finding(
                severity=Severity.NOTE,
                text=f"a row that the new version inserts into {table.name} gets the elements that the defaults of {', '.join(given)} say: let it "
                "insert its own with ON CONFLICT",
                where=mapping.operation,
            )
        )


def _says(mapper: Mapper, mapping: RowMapping, given: Mapping[str, sql.Composable]) -> bool:
    return an_element(mapper, mapping, given) is not None


def measure_elements(mapper: Mapper, mapping: RowMapping) -> None:
    """Find rows that have no form in the new version, and lists that would not come back as they were.

    All rows of a table of up to about 20,000, else pages taken at random. The table is only read.
    """
    elements = mapping.elements
    assert elements is not None
    if elements.follows:
        _gathered(mapper, mapping)
        return
    if elements.one == "new":
        measure_collapsed(mapper, mapping)
        return
    if not mapping.side(elements.many).created:
        _there_already(mapper, mapping, elements)
    one, many = mapping.side(elements.one), mapping.side(elements.many)
    found = tried(mapper, _trial(mapper, mapping, elements))
    tell_failed(mapper, mapping, found, no_form(found, one.table, many.table))
    if found.lost and not elements.lossy:
        mapper.problems.append(
            Problem(
                f"{', '.join(c.name for c in elements.held)}: what comes back from {many.table} differs in "
                f"{found.lost} of {found.rows} rows of {one.table} (for example {'; '.join(found.lost_keys)})",
                mapping.operation,
                "Correct `up` or `down`, or declare the loss with `lossy: true`.",
                "lossy-mapping",
            )
        )


def _gathered(mapper: Mapper, mapping: RowMapping) -> None:
    """Whether what many rows say together can be computed, and stored, for each of the rows of today."""
    asked = sql.SQL("PERFORM ({}); zdm_lost := false;").format(element_rows.gathered(mapping, "zdm_row"))
    if mapping.gathers:
        ones: sql.Composable = group_sync.groups(mapping, "zdm_g")
        key, what = mapping.new.key, f"keys of {mapping.old.table}"
    else:
        ones = sample(mapper.draft.tables[mapping.source.table], SAMPLE)
        key, what = mapping.source.key, f"rows of {mapping.source.table}"
    found = tried(mapper, trial(ones, key, asked, row=sql.SQL("record")))
    tell_failed(
        mapper,
        mapping,
        found,
        f"`up` over the rows of {mapping.old.table} raises for {found.failed} of {found.rows} {what}",
    )


def _there_already(mapper: Mapper, mapping: RowMapping, elements: Elements) -> None:
    """Rows that are there must be what the lists say; only a row that has none at all gets its elements from the backfill."""
    one, many = mapping.side(elements.one), mapping.side(elements.many)
    wrong = sql.SQL(
        "SELECT pg_catalog.count(*), (pg_catalog.array_agg(zdm_w.key))[1:3] FROM ({}) AS zdm_w"
        " WHERE kind <> 'missing' OR EXISTS (SELECT FROM {} AS zdm_m WHERE {})"
    ).format(
        element_rows.disagreeing(mapping, 0, known=False),
        element_rows.among(mapping, 0),
        element_rows.keys_equal(mapping, "zdm_m", "zdm_w"),
    )
    with transaction(mapper.conn, isolation="repeatable read", read_only=True, rollback=True):
        try:
            row = mapper.conn.execute(wrong).fetchone()
        except psycopg.DataError:
            # A list of which no elements can be made: the trial names it.
            return
    assert row is not None
    if row[0]:
        mapper.problems.append(
            Problem(
                f"{row[0]} rows of {many.table} are not what {one.table} says of them, for example {'; '.join(row[1])}",
                mapping.operation,
                "Which of them is right nobody can tell but you: correct or delete them first. If they are of something else, say with "
                "`elements_where` which rows are its elements.",
                "rows-disagree",
            )
        )


def _changes(mapping: RowMapping) -> sql.Composable:
    """An expression over a row (`zdm_row`) and what its elements say of it (`zdm_j`): which columns come back otherwise, and as what."""

    changes = [
        sql.SQL("CASE WHEN {} THEN {} END").format(
            differs(
                column(c.name, "zdm_row"),
                element_rows.as_stored(number, c, "zdm_j"),
                c.comparison,
                without_length(c.type),
            ),
            otherwise(c.name, column(c.name, "zdm_row"), element_rows.as_stored(number, c, "zdm_j")),
        )
        for number, c in enumerate(one_to_many(mapping).held)
    ]
    return sql.SQL("' (' || pg_catalog.concat_ws(', ', {}) || ')'").format(comma(changes))


def _trial(mapper: Mapper, mapping: RowMapping, elements: Elements) -> sql.Composed:
    """A function that fills a temporary table with the elements of each row in turn, as the sync will: what it refuses is no element."""
    one = mapping.side(elements.one)
    lost: sql.Composable = sql.SQL("false")
    told: sql.Composable = sql.SQL("NULL")
    if not mapping.one_way and elements.join is not None:
        # What has no elements needs no way back: it stays as it is until somebody adds one.
        joined = element_rows.join(mapping, "zdm_row", of=sql.Identifier("pg_temp", "_zdm_trial"))
        lost = sql.SQL(
            "EXISTS (SELECT FROM pg_temp._zdm_trial) AND NOT COALESCE((SELECT {} FROM ({}) AS zdm_j), false)"
        ).format(element_rows.held_alike(mapping, "zdm_row", "zdm_j"), joined)
        told = sql.SQL("(SELECT {} FROM ({}) AS zdm_j)").format(_changes(mapping), joined)
    types = dict(zip(one.key, one.key_types, strict=True))
    definitions = [
        sql.SQL("{} {} NOT NULL").format(column(of), sql.SQL(types[own]))
        for of, own in zip(elements.of, one.key, strict=True)
    ]
    definitions += [
        sql.SQL("{} {}{}").format(
            column(c.name),
            sql.SQL(c.type),
            sql.SQL(" NOT NULL" if c.not_null or c.name in elements.key else ""),
        )
        for c in elements.columns
    ]
    if elements.where is not None:
        definitions.append(sql.SQL("CONSTRAINT elements_where CHECK ({})").format(render(elements.where)))
    return trial(
        sample(mapper.draft.tables[one.table], SAMPLE),
        one.key,
        sql.SQL(
            "DELETE FROM pg_temp._zdm_trial; INSERT INTO pg_temp._zdm_trial ({columns}) SELECT {names} FROM ({split}) AS zdm_q;"
            " zdm_lost := {lost};"
        ).format(
            columns=comma(column(name) for name in (*elements.of, *(c.name for c in elements.columns))),
            names=element_rows.elements_of(mapping, "zdm_q"),
            split=element_rows.split(mapping, "zdm_row"),
            lost=lost,
        ),
        row=qualified_name(one.table),
        begin=sql.SQL("CREATE TEMPORARY TABLE _zdm_trial ({}, UNIQUE ({}));").format(
            comma(definitions), comma(column(name) for name in (*elements.of, *elements.key))
        ),
        told=told,
    )
