"""Counting and naming the rows that break a promise, whatever their columns are called or made from at the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from zdm.model.names import QualifiedName
from zdm.model.promise import Demand, Promise
from zdm.sql.identifiers import all_of, any_of, comma, qualified_name, trusted

_ROW = sql.Identifier("_zdm_row")
_KEY = sql.Identifier("_zdm_key")


@dataclass(frozen=True, slots=True)
class Source:
    """A table as a promise sees it.

    Parameters
    ----------
    table: its name at the moment.
    columns: what stands for a physical column that is not simply there under its planned name: it is not filled yet and is
        derived on the fly, or a fence has set its name aside. Over the table's columns.
    key: what names a row to people: columns by their names.
    alone: only its own rows, not those of what inherits from it, as the server means keys and references to them.
    """

    table: QualifiedName
    columns: Mapping[str, sql.Composable]
    key: tuple[str, ...] = ()
    alone: bool = False

    def rows(self, reads: Sequence[str], *, named: bool = False) -> sql.Composed:
        """A FROM item, alias included, that shows the columns read, and with `named` each row's key as text."""
        shown: list[sql.Composable] = [
            sql.SQL("{} AS {}").format(self.columns.get(name, sql.Identifier(name)), sql.Identifier(name))
            for name in dict.fromkeys(reads)
        ]
        if named:
            shown.append(sql.SQL("{} AS {}").format(self._key(), _KEY))
        only = sql.SQL("ONLY " if self.alone else "")
        return sql.SQL("(SELECT {} FROM {}{}) AS {}").format(
            comma(shown), only, qualified_name(self.table), _ROW
        )

    def _key(self) -> sql.Composable:
        if not self.key:
            return sql.SQL("'ctid=' || ctid::pg_catalog.text")
        pairs = [
            sql.SQL("{} || COALESCE({}::pg_catalog.text, 'NULL')").format(
                sql.Literal(f"{name}="), self.columns.get(name, sql.Identifier(name))
            )
            for name in self.key
        ]
        return sql.SQL(" || ', ' || ").join(pairs)


@dataclass(frozen=True, slots=True)
class Equality:
    """How a foreign key compares one column: the operator, qualified, and the type that its operands are cast to, if any."""

    operator: str = "pg_catalog.="
    type: str = ""

    def compose(self, *sides: sql.Composable) -> sql.Composed:
        """The comparison of two columns."""
        cast = sql.SQL("CAST({{}} AS {})").format(trusted(self.type)).as_string(None) if self.type else "{}"
        left, right = (sql.SQL(cast).format(side) for side in sides)
        return sql.SQL("{} OPERATOR({}) {}").format(left, trusted(self.operator), right)


@dataclass(frozen=True, slots=True)
class Count:
    """Two queries: how many rows break the promise, and the keys of some of them, one text each."""

    count: sql.Composed
    samples: sql.Composed


def violations(
    promise: Promise, source: Source, parent: Source | None = None, equals: Sequence[Equality] = ()
) -> Count:
    """How to count and name what breaks `promise`.

    Parameters
    ----------
    parent: the referenced table of a foreign key.
    equals: how each of its columns is compared; with pg_catalog's operators if not given.
    """
    if promise.demand not in {Demand.UNIQUE, Demand.EXCLUSION, Demand.FOREIGN_KEY}:
        source = replace(source, alone=False)  # checks are handed down to what inherits
    if promise.demand is Demand.UNIQUE:
        return _duplicates(promise, source)
    if promise.demand is Demand.EXCLUSION:
        return _conflicts(promise, source)
    if promise.demand is Demand.FOREIGN_KEY:
        assert parent is not None
        broken = _orphan(promise, parent, equals)
    elif promise.demand is Demand.CHECK:
        broken = sql.SQL("({}) IS FALSE").format(trusted(promise.condition))
    else:
        broken = any_of(sql.SQL("{} IS NULL").format(trusted(key)) for key in promise.keys)
    return Count(
        sql.SQL("SELECT pg_catalog.count(*) FROM {} WHERE {}").format(source.rows(promise.reads), broken),
        sql.SQL("SELECT {} FROM {} WHERE {}").format(_KEY, source.rows(promise.reads, named=True), broken),
    )


def _conflicts(promise: Promise, source: Source) -> Count:
    """Each two rows that meet all operators; what compares to NULL conflicts with nothing."""
    names = [sql.Identifier(f"_zdm_{number}") for number in range(len(promise.keys))]
    keys = comma(
        sql.SQL("({}) AS {}").format(trusted(key), name)
        for key, name in zip(promise.keys, names, strict=True)
    )
    about = sql.SQL(" WHERE ({})").format(trusted(promise.condition)) if promise.condition else sql.SQL("")
    rows = sql.SQL(
        "(SELECT {keys}, {key}, pg_catalog.row_number() OVER () AS _zdm_number FROM {rows}{about})"
    ).format(keys=keys, key=_KEY, rows=source.rows(promise.reads, named=True), about=about)
    meets = all_of(
        sql.SQL("a.{} OPERATOR({}) b.{}").format(name, trusted(operator), name)
        for name, operator in zip(names, promise.operators, strict=True)
    )

    def pairs(shown: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "WITH _zdm_rows AS MATERIALIZED {} SELECT {} FROM _zdm_rows AS a JOIN _zdm_rows AS b ON "
            "a._zdm_number OPERATOR(pg_catalog.<) b._zdm_number AND {}"
        ).format(rows, shown, meets)

    return Count(
        pairs(sql.SQL("pg_catalog.count(*)")), pairs(sql.SQL("a.{} || ' and ' || b.{}").format(_KEY, _KEY))
    )


def _duplicates(promise: Promise, source: Source) -> Count:
    names = [sql.Identifier(f"_zdm_{number}") for number in range(len(promise.keys))]
    keys = comma(
        sql.SQL("({}) AS {}").format(trusted(key), name)
        for key, name in zip(promise.keys, names, strict=True)
    )
    about = [sql.SQL("({})").format(trusted(promise.condition))] if promise.condition else []
    if not promise.nulls_equal:
        about += [sql.SQL("({}) IS NOT NULL").format(trusted(key)) for key in promise.keys]
    groups = sql.SQL("GROUP BY {} HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1").format(comma(names))
    count = sql.SQL(
        "SELECT COALESCE(pg_catalog.sum(n), 0) FROM (SELECT pg_catalog.count(*) AS n FROM "
        "(SELECT {keys} FROM {rows} WHERE {about}) AS _zdm_rows {groups}) AS _zdm_groups"
    ).format(keys=keys, rows=source.rows(promise.reads), about=all_of(about), groups=groups)
    samples = sql.SQL(
        "SELECT k[1] || ' and ' || k[2] || CASE WHEN n OPERATOR(pg_catalog.>) 2 "
        "THEN ' and ' || (n OPERATOR(pg_catalog.-) 2) || ' more' ELSE '' END FROM ("
        "SELECT (pg_catalog.array_agg({key} ORDER BY {key}))[1:2] AS k, pg_catalog.count(*) AS n FROM "
        "(SELECT {keys}, {key} FROM {rows} WHERE {about}) AS _zdm_rows {groups}) AS _zdm_groups"
    ).format(
        key=_KEY, keys=keys, rows=source.rows(promise.reads, named=True), about=all_of(about), groups=groups
    )
    return Count(count, samples)


def _orphan(promise: Promise, parent: Source, equals: Sequence[Equality]) -> sql.Composable:
    child = [trusted(key) for key in promise.keys]
    # The parent's columns under names of their own: both tables may call theirs the same.
    renamed = Source(
        parent.table,
        {
            f"_zdm_{number}": parent.columns.get(name, sql.Identifier(name))
            for number, name in enumerate(promise.referenced)
        },
        alone=parent.alone,
    )
    names = [f"_zdm_{number}" for number in range(len(promise.referenced))]
    pairs = all_of(
        equal.compose(sql.Identifier("_zdm_parent", name), key)
        for name, equal, key in zip(names, equals or [Equality()] * len(child), child, strict=True)
    )
    given = all_of(sql.SQL("{} IS NOT NULL").format(key) for key in child)
    missing = sql.SQL("({} AND NOT EXISTS (SELECT FROM (SELECT * FROM {}) AS _zdm_parent WHERE {}))").format(
        given, renamed.rows(names), pairs
    )
    if not promise.match_full:
        return missing
    none = all_of(sql.SQL("{} IS NULL").format(key) for key in child)
    return sql.SQL("({} OR NOT {} AND NOT {})").format(missing, given, none)
