"""What the rows of today say to a row mapping: measured before anything changes, refused by name."""

from __future__ import annotations

import psycopg
from psycopg import sql

from zdm.db.session import transaction
from zdm.engine.mapper import Mapper
from zdm.errors import Problem
from zdm.model.plan import Finding, Roundtrip, Severity
from zdm.model.row_mapping import RowMapping, SideKind
from zdm.sql import row_conditions
from zdm.sql.identifiers import all_of, column, comma, qualified_name, type_name
from zdm.sql.rows import render

SAMPLES = 5


def measure_rows(mapper: Mapper, mapping: RowMapping, *, lossy: bool) -> None:
    """Refuse a table whose rows disagree already, and a mapping that loses values of real rows without saying so."""
    try:
        if mapping.joins:
            _alone(mapper, mapping)
        elif not mapping.new.created:
            _there_already(mapper, mapping)
        if not mapping.one_way:
            _round_trip(mapper, mapping, lossy=lossy)
            _within_filter(mapper, mapping)
    except psycopg.DataError as error:
        mapper.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"`up` or `down` raises on rows of {mapping.old.table} ({str(error).strip().splitlines()[0]}); they are recorded, "
                "and refuse the gates until they are corrected",
                where=mapping.operation,
                rule="up-raises",
            )
        )


def _there_already(mapper: Mapper, mapping: RowMapping) -> None:
    may = [] if mapping.where is None else [sql.SQL("({} IS TRUE)").format(render(mapping.where, "zdm_o"))]
    wrong = sql.SQL(
        "FROM {new} AS zdm_n LEFT JOIN {old} AS zdm_o ON {joined} WHERE {own} AND CASE WHEN {paired} THEN {differs} ELSE true END"
    ).format(
        own=row_conditions.theirs(mapping.new, "zdm_n"),
        new=qualified_name(mapping.new.table),
        old=qualified_name(mapping.old.table),
        joined=all_of([row_conditions.joined(mapping, "zdm_o", "zdm_n"), *may]),
        paired=sql.SQL("{} IS NOT NULL").format(column(mapping.old.key[0], "zdm_o")),
        differs=row_conditions.disagree(mapping, "zdm_o", "zdm_n"),
    )
    count, keys = counted(mapper, wrong, mapping.new.key, "zdm_n")
    if count:
        mapper.problems.append(
            Problem(
                f"{count} rows of {mapping.new.table} are not what {mapping.old.table} says of them, for example {keys}",
                mapping.operation,
                "Which of them is right nobody can tell but you: correct or delete them first.",
                "rows-disagree",
            )
        )


def _alone(mapper: Mapper, mapping: RowMapping) -> None:
    """A row of the old side whose columns have nowhere to go would be lost when its table does."""
    lost = sql.SQL("FROM {old} AS zdm_o WHERE NOT EXISTS (SELECT FROM {new} AS zdm_n WHERE {joined})").format(
        old=qualified_name(mapping.old.table),
        new=qualified_name(mapping.new.table),
        joined=row_conditions.joined(mapping, "zdm_o", "zdm_n"),
    )
    count, keys = counted(mapper, lost, mapping.old.key, "zdm_o")
    if count:
        mapper.problems.append(
            Problem(
                f"{count} rows of {mapping.old.table} have no row of {mapping.new.table}, for example {keys}",
                mapping.operation,
                f"Make their rows of {mapping.new.table}, or delete them.",
                "rows-disagree",
            )
        )


def _within_filter(mapper: Mapper, mapping: RowMapping) -> None:
    """An old row that the new version makes must be one that the filter takes, or every such write is refused."""
    where = mapping.where
    if where is None or mapping.old.kind is not SideKind.ROWS:
        return
    read = {name for c in mapping.old.columns for name in c.value.columns}
    if not read <= _known(mapping):
        return
    given = {c.name: c.value for c in mapping.old.columns} | dict(
        zip(mapping.old.key, mapping.old.key_values, strict=True)
    )
    back = comma(
        sql.SQL("{} AS {}").format(
            render(given[name], "zdm_n") if name in given else column(name, "zdm_o"), column(name)
        )
        for name in dict.fromkeys(where.columns)
    )
    wrong = sql.SQL("{} AND ({}) IS NOT TRUE").format(
        made_rows(mapping, sql.SQL(" CROSS JOIN LATERAL (SELECT {}) AS zdm_b").format(back)),
        render(where, "zdm_b"),
    )
    count, keys = counted(mapper, wrong, mapping.old.key, "zdm_o")
    if count:
        mapper.problems.append(
            Problem(
                f"{count} rows of {mapping.old.table} meet {where.source!r}, and would not if the new version made them: `down` gives "
                f"what the filter leaves out (for example {keys})",
                mapping.operation,
                "Let `down` give what `where` asks for; else each such row of the new version is refused.",
            )
        )


def _known(mapping: RowMapping) -> set[str]:
    """The columns of the new side that follow from the old one's row."""
    return {
        *mapping.new.key,
        *(c.name for c in mapping.new.columns),
        *(t.name for t in mapping.new.given),
    }


def _round_trip(mapper: Mapper, mapping: RowMapping, *, lossy: bool) -> None:
    read = {name for c in mapping.old.followed for name in c.value.columns}
    if (
        not read
        or not read <= _known(mapping)
        or all(c.plain for c in (*mapping.new.followed, *mapping.old.followed))
    ):
        return
    source = made_rows(mapping)
    rows, _ = counted(mapper, source, mapping.old.key, "zdm_o")
    changed = sql.SQL("{} AND {}").format(source, row_conditions.changed(mapping, "zdm_o", "zdm_n"))
    lost, keys = counted(mapper, changed, mapping.old.key, "zdm_o")
    mapper.roundtrips.append(
        Roundtrip(
            table=mapping.old.table,
            group=mapping.new.table.name,
            rows=rows,
            lost=lost,
            failed=0,
            sample_keys=(keys,) if lost else (),
            declared_lossy=lossy,
        )
    )
    if lost and not lossy:
        mapper.problems.append(
            Problem(
                f"{mapping.new.table}: down(up(x)) differs from x in {lost} of {rows} rows of {mapping.old.table} (for example {keys})",
                mapping.operation,
                "Correct `up` or `down`, or declare the loss with `lossy: true`.",
                "lossy-mapping",
            )
        )


def made_rows(mapping: RowMapping, beside: sql.Composable = sql.SQL("")) -> sql.Composed:  # noqa: B008 - a frozen value
    """FROM and WHERE: rows of the old side (`zdm_o`) that have a new form, and that (`zdm_n`), though nothing is written.

    Parameters
    ----------
    beside: joined after both.
    """
    made = comma(
        [
            *(
                sql.SQL("{} AS {}").format(render(value, "zdm_o"), column(name))
                for name, value in zip(mapping.new.key, mapping.new.key_values, strict=True)
            ),
            *(
                sql.SQL("CAST({} AS {}) AS {}").format(
                    render(c.value, "zdm_o"), type_name(c.type), column(c.name)
                )
                for c in mapping.new.columns
            ),
            *(sql.SQL("{} AS {}").format(render(t.value), column(t.name)) for t in mapping.new.given),
        ]
    )
    return sql.SQL("FROM {} AS zdm_o CROSS JOIN LATERAL (SELECT {}) AS zdm_n{} WHERE {}").format(
        qualified_name(mapping.old.table), made, beside, row_conditions.wanted(mapping, "zdm_o")
    )


def counted(mapper: Mapper, found: sql.Composable, key: tuple[str, ...], alias: str) -> tuple[int, str]:
    """How many rows, and some of their keys."""
    names = sql.SQL(" || ', ' || ").join(
        sql.SQL("{} || COALESCE({}::text, 'NULL')").format(sql.Literal(f"{name}="), column(name, alias))
        for name in key
    )
    with transaction(mapper.conn, read_only=True, rollback=True):
        row = mapper.conn.execute(
            sql.SQL("SELECT pg_catalog.count(*), (pg_catalog.array_agg({}))[1:{}] {}").format(
                names, sql.Literal(SAMPLES), found
            )
        ).fetchone()
    assert row is not None
    return int(row[0]), "; ".join(row[1] or ())
