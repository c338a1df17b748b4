"""Several mappings whose rows go to one table: what tells them apart, checked by the server and tried on real rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import psycopg
from psycopg import sql

from zdm.db.expressions import Request
from zdm.db.session import fetch_value, transaction
from zdm.engine.mapper import Mapper
from zdm.engine.row_measure import counted
from zdm.errors import Problem
from zdm.model.expression import Expression, Volatility
from zdm.model.row_mapping import Beside, RowMapping, Told
from zdm.operations.rows import DraftSide
from zdm.sql import row_conditions
from zdm.sql.identifiers import all_of, any_of, column, qualified_name, type_name
from zdm.sql.rows import render


def told_apart(mapper: Mapper, label: str, side: DraftSide) -> tuple[Told, ...]:
    """What the rows of one old table hold in the new one, as the server spells it; problems are collected in the mapper."""
    types = {name: (type_, collation) for name, type_, collation in side.readable}
    requests = {name: Request(label, value, *types[name]) for name, value in side.told.items()}
    found: list[Told] = []
    for name, value in mapper.check(side.table.name, [], requests).items():
        type_, _ = types[name]
        if value.volatility is not Volatility.IMMUTABLE:
            mapper.problems.append(
                Problem(
                    f"{value.source!r} for {name} of {side.table} is not the same at every moment, so it tells no rows apart",
                    label,
                    "Give a constant.",
                )
            )
            continue
        constant = sql.SQL("CAST({} AS {})").format(render(value), type_name(type_)).as_string(None)
        found.append(
            Told(name=name, type=type_, value=Expression(source=value.source, parts=(constant,), type=type_))
        )
    return tuple(found)


def unite(mapper: Mapper, found: Sequence[RowMapping]) -> tuple[RowMapping, ...]:
    """Let mappings whose rows go to one table know of each other."""
    made: list[RowMapping] = []
    for mapping in found:
        others = [
            other
            for other in found
            if mapping.unites
            and other.number != mapping.number
            and (other.new.table, other.operation) == (mapping.new.table, mapping.operation)
        ]
        beside = tuple(
            Beside(number=o.number, table=o.old.table, key=o.old.key, told=o.new.told) for o in others
        )
        made.append(mapping.model_copy(update={"beside": beside}))
    for one, other in combinations(made, 2):
        if any(b.number == other.number for b in one.beside):
            _check_apart(mapper, one, other)
    return tuple(made)


def _check_apart(mapper: Mapper, one: RowMapping, other: RowMapping) -> None:
    """Their constants must differ; where some are part of the key, those must."""
    mine = [t for t in one.new.told if one.contested or t.name in one.new.key]
    theirs = {t.name: t for t in other.new.told}
    pairs = [
        sql.SQL("({} OPERATOR(pg_catalog.<>) {}) IS TRUE").format(
            render(t.value), render(theirs[t.name].value)
        )
        for t in mine
    ]
    said = ", ".join(f"{t.name} = {t.value.source}" for t in mine)
    try:
        with transaction(mapper.conn, read_only=True, rollback=True):
            apart = fetch_value(mapper.conn, sql.SQL("SELECT {}").format(any_of(pairs)))
    except psycopg.Error as error:
        mapper.problems.append(
            Problem(
                f"nothing tells whether {said} of {one.old.table} is another value than that of {other.old.table}: "
                f"{str(error).strip().splitlines()[0]}",
                one.operation,
                "Tell them apart by a text, a number or a boolean.",
            )
        )
        return
    if not apart:
        mapper.problems.append(
            Problem(
                f"{one.old.table} and {other.old.table} are both told apart by {said}: a row of {one.new.table} would be either's",
                one.operation,
                "Give each table `values` of its own.",
            )
        )


def measure_union(mapper: Mapper, mapping: RowMapping) -> None:
    """Refuse rows of two tables that would be one, and rows of a table that is there which are none of them."""
    if mapping.contested:
        for other in mapping.beside:
            if other.number > mapping.number:
                _claimed_twice(mapper, mapping, other)
    if mapping.foremost and not mapping.new.created:
        _outside(mapper, mapping)


def _claimed_twice(mapper: Mapper, mapping: RowMapping, other: Beside) -> None:
    same = all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(theirs, "zdm_b"), column(mine, "zdm_o"))
        for mine, theirs in zip(mapping.old.key, other.key, strict=True)
    )
    count, keys = counted(
        mapper,
        sql.SQL("FROM {} AS zdm_o JOIN {} AS zdm_b ON {}").format(
            qualified_name(mapping.old.table), qualified_name(other.table), same
        ),
        mapping.old.key,
        "zdm_o",
    )
    if count:
        names = ", ".join(t.name for t in mapping.new.told)
        mapper.problems.append(
            Problem(
                f"two source rows claim one target row: {mapping.old.table} and {other.table} have keys in common ({count}, for example {keys})",
                mapping.operation,
                f"Let {names} be part of the key: `key: [{', '.join([*(t.name for t in mapping.new.told), *mapping.new.key])}]`; or give the "
                "rows of one table other keys first.",
                "two-rows-one-key",
            )
        )


def _outside(mapper: Mapper, mapping: RowMapping) -> None:
    count, keys = counted(
        mapper,
        sql.SQL("FROM {} AS zdm_n WHERE {}").format(
            qualified_name(mapping.new.table), row_conditions.nobodys(mapping, "zdm_n")
        ),
        mapping.new.key,
        "zdm_n",
    )
    if count:
        mapper.problems.append(
            Problem(
                f"{count} rows of {mapping.new.table} are no table's by `values`, for example {keys}: they have no old form",
                mapping.operation,
                "Correct or delete them first.",
                "rows-disagree",
            )
        )
