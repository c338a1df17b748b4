"""Rows of the old version that become columns of one, tried on real rows: what would not come back as it was, and what goes with their table."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from zdm.db.session import transaction
from zdm.engine.mapper import Mapper
from zdm.engine.trial import SAMPLE, an_element, no_form, otherwise, sample, tell_failed, tried
from zdm.errors import Problem
from zdm.model.expression import Expression
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import RowMapping, RowsQuery
from zdm.operations.rows import DraftRows
from zdm.operations.target import loose_key
from zdm.sql import element_rows
from zdm.sql.element_rows import ELEMENT, JOINED, MANY, as_stored, one_to_many
from zdm.sql.identifiers import all_of, column, comma, differs, qualified_name, type_name, without_length
from zdm.sql.trial import trial

_SHOWN = 3


def invertible(mapper: Mapper, draft: DraftRows, split: RowsQuery, join: RowsQuery) -> list[Problem]:
    """Why rows and columns that either version writes cannot follow from each other; nothing if they can."""
    asked = draft.elements
    assert asked is not None
    many = draft.old.table
    known = {*asked.of, *(c.name for c in asked.columns)}
    beyond = [name for name in join.reads("many") if name not in known]
    read = {*split.reads("one")}
    found = [
        Problem(
            f"`up` reads {', '.join(beyond)} of {many}, which rows that the new version makes would have by chance",
            draft.operation,
            "Name it in `elements`, and give it a value in `down`.",
            "missing-down",
        )
    ] * bool(beyond)
    found += [
        Problem(
            f"`down` does not read column {c.name}, so that nothing of {many} follows from what the new version writes there",
            draft.operation,
            "Let `down` make rows of it; or make the column with a collapse of its own, with `one_way: true`.",
            "missing-down",
        )
        for c in asked.held
        if c.name not in read
    ]
    table = mapper.draft.tables[many]
    remedy = (
        f"Delete those, and add a unique constraint over ({', '.join(draft.old.key)}) first (add_unique)."
    )
    for problem in loose_key(table, draft.old.key, remedy):
        twice = _twice(mapper, many, draft.old.key)
        found.append(Problem(f"{problem.what}{twice}", draft.operation, problem.remedy, problem.rule))
    return found


def _twice(mapper: Mapper, many: QualifiedName, key: list[str]) -> str:
    """How many rows claim the key of another one, in words; nothing if there are none."""
    names = comma(column(name) for name in key)
    said = sql.SQL(" || ', ' || ").join(
        sql.SQL("{} || COALESCE({}::text, 'NULL')").format(sql.Literal(f"{name}="), column(name))
        for name in key
    )
    asked = sql.SQL(
        "SELECT pg_catalog.count(*), (pg_catalog.array_agg(said))[1:{}] FROM (SELECT {} AS said FROM {} GROUP BY {}"
        " HAVING pg_catalog.count(*) > 1 ORDER BY {}) AS zdm_t"
    ).format(sql.Literal(_SHOWN), said, qualified_name(many), names, names)
    with transaction(mapper.conn, read_only=True, rollback=True):
        row = mapper.conn.execute(asked).fetchone()
    assert row is not None
    return (
        f"; {row[0]} of its keys are there more than once, for example {'; '.join(row[1])}" if row[0] else ""
    )


def empty_says_nothing(mapper: Mapper, mapping: RowMapping, empty: Mapping[str, Expression]) -> None:
    """A row that the old version inserts holds nothing in these columns, and must not get elements by it."""
    held = one_to_many(mapping).held
    given = {name: value.render(sql.Identifier) for name, value in empty.items()}
    try:
        found = an_element(mapper, mapping, given)
    except psycopg.DataError as error:
        found = f"an error: {error.diag.message_primary}"
    if found is not None:
        what = ", ".join(
            f"{c.name} = {given[c.name].as_string(None) if c.name in given else 'NULL'}" for c in held
        )
        mapper.problems.append(
            Problem(
                f"`down` makes rows of {what}, which is what a row of {mapping.new.table} holds that has none ({found})",
                mapping.operation,
                "Let `down` leave that out, as in SELECT 'theme', theme WHERE theme IS NOT NULL, or give another `empty`.",
            )
        )


def measure_collapsed(mapper: Mapper, mapping: RowMapping) -> None:
    """Find rows whose columns cannot be computed, elements that would come back otherwise, and rows that are none and go with their table.

    All rows of a table of up to about 20,000, else pages taken at random. The tables are only read.
    """
    elements = one_to_many(mapping)
    one, many = mapping.new, mapping.old
    found = tried(
        mapper,
        trial(
            sample(mapper.draft.tables[one.table], SAMPLE),
            one.key,
            sql.SQL("zdm_lost := NOT (SELECT {} FROM ({}) AS zdm_n);").format(
                element_rows.is_whole(mapping, "zdm_n", 0), _back(mapping)
            ),
            row=qualified_name(one.table),
            told=sql.SQL("' (' || ({}) || ')'").format(_lost(mapping))
            if elements.order is None
            else sql.NULL,
        ),
    )
    tell_failed(mapper, mapping, found, no_form(found, one.table, many.table))
    if found.lost and not elements.lossy:
        mapper.problems.append(
            Problem(
                f"rows of {many.table} would not come back from {', '.join(c.name for c in elements.held)} as they are, for {found.lost} of "
                f"{found.rows} rows of {one.table} (for example {'; '.join(found.lost_keys)})",
                mapping.operation,
                "Correct `up` or `down`; say with `where` which rows count, and let the others alone; or declare the loss with `lossy: true`.",
                "lossy-mapping",
            )
        )
    _going_along(mapper, mapping)


def _back(mapping: RowMapping) -> sql.Composed:
    """A SELECT of the row (`zdm_row`) as its elements make it, as far as elements are made of it."""
    elements, one = one_to_many(mapping), mapping.new
    held = {c.name: (number, c) for number, c in enumerate(elements.held)}
    read = elements.split.reads("one") if elements.split is not None else ()
    values = comma(
        sql.SQL("CAST({} AS {}) AS {}").format(
            column(f"zdm_c{held[name][0]}", JOINED), type_name(held[name][1].type), column(name)
        )
        if name in held
        else sql.SQL("{} AS {}").format(column(name, "zdm_row"), column(name))
        for name in dict.fromkeys((*one.key, *read))
    )
    return sql.SQL("SELECT {} FROM ({}) AS zdm_j").format(
        values, element_rows.join(mapping, "zdm_row", of=element_rows.among(mapping, 0))
    )


def _lost(mapping: RowMapping) -> sql.Composed:
    """A query of the elements of a row (`zdm_row`) that come back otherwise, in words."""
    elements = one_to_many(mapping)
    same = element_rows.same_element(mapping, MANY, ELEMENT)
    key = comma(
        sql.SQL("{} || COALESCE({}::text, {}::text)").format(
            sql.Literal(f"{c.name}="), column(c.name, MANY), column(f"zdm_c{number}", ELEMENT)
        )
        for number, c in enumerate(elements.columns)
        if c.name in elements.key
    )
    others = [
        sql.SQL("CASE WHEN {} THEN {} END").format(
            differs(
                column(c.name, MANY), as_stored(number, c, ELEMENT), c.comparison, without_length(c.type)
            ),
            otherwise(c.name, column(c.name, MANY), as_stored(number, c, ELEMENT)),
        )
        for number, c in enumerate(elements.columns)
        if c.name not in elements.key
    ]
    changed = sql.SQL(
        "CASE WHEN zdm_e.zdm_there AND zdm_m.zdm_there THEN pg_catalog.concat_ws(', ', {}) END"
    ).format(comma(others or [sql.NULL]))
    return sql.SQL(
        "SELECT pg_catalog.array_to_string((pg_catalog.array_agg(pg_catalog.concat_ws(', ', {key}, {changed}) ORDER BY {key}))[1:{shown}], '; ')"
        " FROM (SELECT zdm_q.*, true AS zdm_there FROM ({back}) AS zdm_n CROSS JOIN LATERAL ({split}) AS zdm_q) AS zdm_e"
        " FULL JOIN (SELECT zdm_m.*, true AS zdm_there FROM {many} AS zdm_m WHERE {belongs}) AS zdm_m ON {same}"
        " WHERE zdm_e.zdm_there IS NULL OR zdm_m.zdm_there IS NULL OR {unlike}"
    ).format(
        key=key,
        changed=changed,
        shown=sql.Literal(_SHOWN),
        back=_back(mapping),
        split=element_rows.split(mapping, "zdm_n"),
        many=element_rows.among(mapping, 0),
        belongs=element_rows.belongs(mapping, MANY, "zdm_row"),
        same=same,
        unlike=element_rows.unlike(mapping, MANY, ELEMENT),
    )


def _going_along(mapper: Mapper, mapping: RowMapping) -> None:
    """Tell of the rows that the mapping leaves alone, where their table goes at cleanup."""
    elements, many = one_to_many(mapping), mapping.old.table
    shape = mapper.draft.shapes.get(many)
    if elements.where is None or shape is None or not shape.dropped:
        return
    said = sql.SQL(" || ', ' || ").join(
        sql.SQL("{} || {}::text").format(sql.Literal(f"{name}="), column(name, MANY)) for name in elements.key
    )
    asked = sql.SQL(
        "SELECT pg_catalog.count(*), (pg_catalog.array_agg(DISTINCT {}))[1:{}] FROM {} AS zdm_m WHERE NOT {}"
    ).format(said, sql.Literal(_SHOWN), qualified_name(many), all_of(element_rows.is_element(mapping, MANY)))
    with transaction(mapper.conn, read_only=True, rollback=True):
        row = mapper.conn.execute(asked).fetchone()
    assert row is not None
    if row[0]:
        mapper.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"{row[0]} rows of {many} do not meet `where`, and go with the table at cleanup (for example {'; '.join(row[1])})",
                where=mapping.operation,
            )
        )
