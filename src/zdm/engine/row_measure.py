"""What the rows of today say to a row mapping: measured before anything changes, refused by name."""

from __future__ import annotations

import psycopg
from psycopg import sql

from zdm.db.session import transaction
from zdm.engine.mapper import Mapper
from zdm.engine.trial import no_form, sample, tell_failed, tried
from zdm.errors import Problem
from zdm.model.plan import Finding, Roundtrip, Severity
from zdm.model.row_mapping import RowMapping, SideKind
from zdm.sql import row_conditions
from zdm.sql.identifiers import all_of, column, comma, qualified_name, type_name
from zdm.sql.rows import render
from zdm.sql.trial import trial

SAMPLES = 5
_SAMPLE = 100_000
"""Of so many rows each is tried for itself, where one raises."""
_MADE = sql.SQL("ROW(zdm_n.*)::pg_catalog.text")
"""All of a row's new form at once, so that nothing of it is left out."""


def measure_rows(mapper: Mapper, mapping: RowMapping, *, lossy: bool) -> None:
    """Refuse a table whose rows disagree already, and a mapping that loses values of real rows without saying so."""
    try:
        if mapping.joins:
            _alone(mapper, mapping)
        elif not mapping.new.created:
            _there_already(mapper, mapping)
        if not mapping.one_way:
            _within_filter(mapper, mapping)
        if mapping.one_way or not _comes_back(mapping):
            _has_form(mapper, mapping)
        else:
            _round_trip(mapper, mapping, lossy=lossy)
    except psycopg.DatabaseError as error:
        _failing(mapper, mapping, error, lossy=lossy)


def _failing(mapper: Mapper, mapping: RowMapping, error: psycopg.DatabaseError, *, lossy: bool) -> None:
    """Name the rows on which the mapping raises, each of which is tried for itself, and what the others lose."""
    if isinstance(error, psycopg.OperationalError):
        raise error
    reads_back = not mapping.one_way and _comes_back(mapping)
    lost = row_conditions.changed(mapping, "zdm_row", "zdm_n") if reads_back else sql.SQL("false")
    body = sql.SQL(
        "zdm_lost := false; IF {wanted} THEN SELECT {made} IS NOT NULL AND {lost} INTO zdm_lost FROM {new}; END IF;"
    ).format(
        wanted=row_conditions.wanted(mapping, "zdm_row"),
        made=_MADE,
        lost=lost,
        new=_new_form(mapping, "zdm_row"),
    )
    table = mapper.draft.tables[mapping.old.table]
    found = tried(
        mapper,
        trial(sample(table, _SAMPLE), mapping.old.key, body, row=qualified_name(mapping.old.table)),
    )
    if not found.failed:
        if not isinstance(error, psycopg.DataError | psycopg.IntegrityError | psycopg.errors.RaiseException):
            raise error
        # It is a row that the other table has already.
        first = str(error).strip().splitlines()[0]
        mapper.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"`down` raises on rows of {mapping.new.table} ({first}); they refuse the gates until they are corrected",
                where=mapping.operation,
                rule="up-raises",
            )
        )
        return
    tell_failed(mapper, mapping, found, no_form(found, mapping.old.table, mapping.new.table))
    if reads_back:
        keys = "; ".join(found.lost_keys)
        _tell_round_trip(mapper, mapping, found.rows, found.lost, found.failed, keys, lossy=lossy)


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
                f"Which of them is right nobody can tell but you: correct or delete them first. If {mapping.new.table} has rows of its own, or whose "
                "columns are still empty, let `create` make another table.",
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


def _comes_back(mapping: RowMapping) -> bool:
    """Whether what a row of the old side holds can be asked of its new form alone, and may not come back."""
    read = {name for c in mapping.old.followed for name in c.value.columns}
    plain = all(c.plain for c in (*mapping.new.followed, *mapping.old.followed))
    return bool(read) and read <= _known(mapping) and not plain


def _has_form(mapper: Mapper, mapping: RowMapping) -> None:
    """Compute what every row is in the new version, for nothing but the errors."""
    if mapping.where is None and all(c.plain for c in mapping.new.followed):
        return
    nowhere = sql.SQL("{} AND {} IS NULL").format(made_rows(mapping), _MADE)
    counted(mapper, nowhere, mapping.old.key, "zdm_o")


def _round_trip(mapper: Mapper, mapping: RowMapping, *, lossy: bool) -> None:
    source = made_rows(mapping)
    rows, _ = counted(mapper, source, mapping.old.key, "zdm_o")
    changed = sql.SQL("{} AND {}").format(source, row_conditions.changed(mapping, "zdm_o", "zdm_n"))
    lost, keys = counted(mapper, changed, mapping.old.key, "zdm_o")
    _tell_round_trip(mapper, mapping, rows, lost, 0, keys, lossy=lossy)


def _tell_round_trip(
    mapper: Mapper, mapping: RowMapping, rows: int, lost: int, failed: int, keys: str, *, lossy: bool
) -> None:
    mapper.roundtrips.append(
        Roundtrip(
            table=mapping.old.table,
            group=mapping.new.table.name,
            rows=rows,
            lost=lost,
            failed=failed,
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
    return sql.SQL("FROM {} AS zdm_o CROSS JOIN LATERAL {}{} WHERE {}").format(
        qualified_name(mapping.old.table),
        _new_form(mapping, "zdm_o"),
        beside,
        row_conditions.wanted(mapping, "zdm_o"),
    )


def _new_form(mapping: RowMapping, old: str) -> sql.Composed:
    """A FROM item: what the row of the old side under this alias is in the new version, as ``zdm_n``."""
    made = comma(
        [
            *(
                sql.SQL("{} AS {}").format(render(value, old), column(name))
                for name, value in zip(mapping.new.key, mapping.new.key_values, strict=True)
            ),
            *(
                sql.SQL("CAST({} AS {}) AS {}").format(
                    render(c.value, old), type_name(c.type), column(c.name)
                )
                for c in mapping.new.columns
            ),
            *(sql.SQL("{} AS {}").format(render(t.value), column(t.name)) for t in mapping.new.given),
        ]
    )
    return sql.SQL("(SELECT {}) AS zdm_n").format(made)


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
