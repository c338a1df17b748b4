"""merge_tables of several tables: their rows become the rows of one, told apart by values that each table gives them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql
from pydantic import Field, field_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value
from zdm.model.row_mapping import SideKind, WithoutOldForm
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.base import Context, Draft
from zdm.operations.create_table import TableColumn
from zdm.operations.drop_table import DropTable, left_behind
from zdm.operations.params import Name, Sql, TableName, by_name, find_shape, names_too
from zdm.operations.rows import DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import TableShape, is_sequence_default
from zdm.operations.split_table import CreatedPart, PartColumn
from zdm.operations.target import (
    Target,
    existing_table,
    loose_key,
    make_table,
    quoted,
    readable,
    required,
    table_steps,
    without_old_form,
)
from zdm.sql.templates import dollar_quoted

_CONSTANTS = ((r"'.*'", "text"), (r"true|false", "boolean"), (r"[-+]?\d{1,9}", "integer"))
"""Constants whose type is plain to see."""


class UnitedTable(Value):
    """One of the tables whose rows go to one."""

    table: TableName = Field(description="the table")
    values: dict[Name, Sql] = Field(
        min_length=1,
        description="what tells its rows apart: columns of `to`, and the constant that each holds in this table's rows",
    )
    columns: tuple[PartColumn, ...] = Field(
        default=(),
        description="the columns of `to` that it fills besides the key, by name or in detail; `up` is over this table's columns",
        json_schema_extra=names_too,
    )
    key: dict[Name, Name] = Field(
        default_factory=dict, description="its key columns, where they are not those that `key` above says"
    )
    down: dict[Name, Sql] = Field(
        default_factory=dict,
        description="its columns, over those of `to`; each column that is copied as it is needs none",
    )
    discard: tuple[Name, ...] = Field(
        default=(), description="columns of it that go with it, and whatever they hold"
    )
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)


@dataclass(frozen=True, slots=True)
class _Source:
    """One table as it is, and what was found out of it.

    Parameters
    ----------
    key: its key columns, in the order of the shared ones of `to`.
    """

    asked: UnitedTable
    shape: TableShape
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Planned:
    target: Target
    drops: list[DropTable]


@dataclass(frozen=True, slots=True)
class Union:
    """The rows of `tables` become rows of `to`.

    Parameters
    ----------
    key: what names a row of `to`, and the columns of the tables that it equals, as far as it is not told by `values`.
    """

    tables: tuple[UnitedTable, ...]
    to: str
    key: dict[str, str]
    create: CreatedPart | None
    keep: bool
    without_old_form: WithoutOldForm = WithoutOldForm.REFUSE

    @property
    def told(self) -> tuple[str, ...]:
        """The columns that tell rows apart."""
        return tuple(self.tables[0].values)

    @property
    def shared(self) -> tuple[str, ...]:
        """The key columns that hold what those of the tables hold."""
        return tuple(name for name in self.key if name not in self.told)

    @property
    def contested(self) -> bool:
        """Whether rows of two tables could have one key."""
        return not any(name in self.key for name in self.told)

    @property
    def apart(self) -> bool:
        """Whether the key alone says whose a row is."""
        return all(name in self.key for name in self.told)

    def types(self) -> Sequence[str]:
        """As `Operation.types`."""
        found = [c.type for table in self.tables for c in table.columns if c.type is not None]
        found += [c.type for c in self.create.columns] if self.create is not None else []
        return tuple(found)

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        """As `Operation.apply`."""
        problems = self._check_request(draft)
        if problems:
            return problems
        sources = [found for asked in self.tables if (found := self._source(draft, asked, problems))]
        if problems:
            return problems
        problems += self._check_together(sources)
        problems += [problem for source in sources for problem in self._check_columns(source)]
        more: list[Problem] = []
        sides = (self._made if self.create is not None else self._existing)(draft, sources, label, more)
        problems += more
        if problems:
            return list(dict.fromkeys(problems))
        for source, target, numbers in zip(sources, sides, self._numbers(sources), strict=True):
            draft.rows.append(self._rows(source, target, label, numbers))
        drops: list[DropTable] = []
        for number, source in enumerate(sources):
            if not self.keep:
                drops.append(DropTable(table=source.asked.table))
                problems += drops[-1].apply(draft, f"{label}/{number}/drop")
                gone = [c.name for c in source.shape.table.columns if c.name not in source.asked.discard]
                left_behind(draft, label, source.shape, [target.side.table for target in sides], gone)
            problems += without_old_form(
                draft,
                label,
                self.without_old_form,
                source.shape.name,
                sides[0].side.table,
                self._outside(number),
            )
        draft.memo[label] = _Planned(sides[0], drops)
        return problems

    def _outside(self, number: int) -> list[str]:
        said = [" and ".join(f"{n} = {v}" for n, v in table.values.items()) for table in self.tables]
        return [f"one that is none of {'; '.join(said)} (23514)"] if number == 0 else []

    def _check_request(self, draft: Draft) -> list[Problem]:
        """What is wrong with it whatever the tables are."""
        problems: list[Problem] = []
        try:
            names = [draft.name(table.table) for table in self.tables]
            to = draft.name(self.to)
        except ValueError as error:
            return [Problem(str(error))]
        if to in names:
            problems.append(
                Problem(
                    f"{to} is among the tables whose rows go to it: the old version would see the others' rows in it",
                    remedy="Give `to` another name, and rename it in the next migration (rename_table).",
                )
            )
        problems.extend(
            Problem(f"table {name} is named more than once")
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        )
        problems.extend(
            Problem(
                f"rows of {table.table} are told apart by {', '.join(table.values)}, those of {self.tables[0].table} by "
                f"{', '.join(self.told)}",
                remedy="Give the same columns in the `values` of each table.",
            )
            for table in self.tables
            if set(table.values) != set(self.told)
        )
        problems.extend(
            Problem(f"column {c.column} of {self.to} is in `columns` of {table.table}, and in {where}")
            for table in self.tables
            for c in table.columns
            for where, taken in (("`values`", self.told), ("`key`", self.shared))
            if c.column in taken
        )
        problems.extend(
            Problem(f"column {name} of {self.to} is named more than once in `columns` of {table.table}")
            for table in self.tables
            for name in dict.fromkeys(c.column for c in table.columns)
            if [c.column for c in table.columns].count(name) > 1
        )
        if not self.shared:
            problems.append(
                Problem(
                    f"the key of {self.to} says only which table a row comes from ({', '.join(self.key)})",
                    remedy="Name a key column of the tables in `key` as well.",
                    rule="no-key",
                )
            )
        problems.extend(
            Problem(f"`key` of {table.table} names {name}, which is no key column that {self.to} has of it")
            for table in self.tables
            for name in table.key
            if name not in self.shared
        )
        return problems

    def _source(self, draft: Draft, asked: UnitedTable, problems: list[Problem]) -> _Source | None:
        shape = find_shape(draft, asked.table, problems, ordinary=True)
        if shape is None:
            return None
        if shape.changed:
            problems.append(
                Problem(
                    f"table {shape.name} is changed by this migration, and merged by it",
                    remedy="Change it in one migration, and merge it in the next.",
                )
            )
            return None
        key = tuple(asked.key.get(name, self.key[name]) for name in self.shared)
        loose = list(loose_key(shape.table, key))
        problems.extend(loose)
        if loose:
            return None
        return _Source(asked, shape, key)

    def _check_together(self, sources: Sequence[_Source]) -> Iterator[Problem]:
        """What the tables have to have in common, and who else knows them."""
        first = sources[0]
        for source in sources[1:]:
            if source.shape.table.owner != first.shape.table.owner:
                yield Problem(
                    f"{source.shape.name} belongs to {source.shape.table.owner}, {first.shape.name} to {first.shape.table.owner}: what "
                    "is written to one could not be written to the other",
                    remedy="Give all to one role first (ALTER TABLE … OWNER TO …).",
                    rule="not-owner",
                )
            for name, mine, theirs in zip(self.shared, source.key, first.key, strict=True):
                one, other = _column(source, mine), _column(first, theirs)
                if one.type != other.type:
                    yield Problem(
                        f"{name} of {self.to} would be {other.type} by {first.shape.name}, and {one.type} by {source.shape.name}",
                        remedy="Bring both to one type first (change_type).",
                        rule="no-key",
                    )
        for source in sources:
            for key in source.shape.table.referenced_by:
                if not self.keep and key.references != source.shape.name:
                    yield Problem(
                        f"the foreign key {key.name} of {key.references} points at {source.shape.name}, which goes",
                        remedy=f"Drop it in an earlier migration (drop_constraint), and add one to {self.to} afterwards.",
                        rule="referenced-by-foreign-key",
                    )
        if self.contested:
            yield from self._check_numbering(sources)
        if not self.apart and self.without_old_form is WithoutOldForm.RECORD:
            told = ", ".join(self.told)
            yield Problem(
                f"`without_old_form: record` needs {told} in the key of {self.to}: without it a row that has no form in one table, or in any, "
                "stands under a key that each of the others may give to a row of its own",
                remedy=f"Let it be part of the key: `key: [{', '.join(dict.fromkeys((*self.told, *self.key)))}]`; or leave `without_old_form` out.",
            )

    def _check_numbering(self, sources: Sequence[_Source]) -> Iterator[Problem]:
        """Two sequences come to the same numbers sooner or later."""
        for name, at in zip(self.shared, range(len(self.shared)), strict=True):
            numbered = {
                number: source
                for source in sources
                if (number := _number(source, source.key[at])) is not None and "nextval(" in number
            }
            if len(numbered) > 1:
                tables = " and ".join(str(source.shape.name) for source in numbered.values())
                yield Problem(
                    f"{tables} number their rows each by a sequence of its own, so two source rows would claim one target row",
                    remedy=f"Let {', '.join(self.told)} be part of the key: `key: [{', '.join((*self.told, *self.key))}]`. Or let one "
                    "sequence, set to the greater number, number all tables first (ALTER TABLE … ALTER COLUMN "
                    f"{name} SET DEFAULT nextval(…)); a table whose keys the application gives needs no default.",
                    rule="two-rows-one-key",
                )

    def _check_columns(self, source: _Source) -> Iterator[Problem]:
        """All that a table has must come over, or be let go of by name; and it must be possible to write it back."""
        asked, table = source.asked, source.shape.table
        for name in dict.fromkeys((*asked.down, *asked.discard)):
            if table.column(name) is None:
                yield Problem(f"there is no column {name} in {table.name}", rule="unknown-column")
        downs = self._downs(source)
        for name in asked.discard:
            if name in source.key or name in _copied(source).values():
                yield Problem(f"column {name} of {table.name} is discarded, and comes over")
        for c in table.columns:
            if c.name in source.key:
                continue
            if c.name in downs and c.generated:
                yield Problem(
                    f"column {c.name} of {table.name} is generated, so it cannot be written back",
                    remedy="Name it in `discard`; give `up` if its value shall come over.",
                )
            elif c.name not in downs and c.name not in asked.discard and not self.keep:
                yield Problem(
                    f"column {c.name} of {table.name} is neither merged nor discarded",
                    remedy="Name it in `columns` or `down`, or in `discard` if what it holds may go.",
                )
            if c.name not in downs and required(c):
                yield Problem(
                    f"column {c.name} of {table.name} is NOT NULL without a default: rows that the new version inserts into {self.to} have "
                    "no value for it",
                    remedy="Give it one in `down`.",
                    rule="missing-down",
                )

    # --- the new table ------------------------------------------------------------------------------------------------

    def _mirrored(self, draft: Draft, source: _Source, problems: list[Problem]) -> list[DraftMirrored]:
        found: list[DraftMirrored] = []
        for c in source.asked.columns:
            original = source.shape.table.column(c.up or c.column)
            if original is None and (c.up is None or (c.type is None and self.create is not None)):
                what = (
                    f"there is no column {c.column} in {source.shape.name}"
                    if c.up is None
                    else f"column {c.column} has no type"
                )
                problems.append(
                    Problem(what, remedy="Give `up`, and the type of what it makes.", rule="unknown-column")
                )
                continue
            found.append(
                DraftMirrored(
                    name=c.column,
                    type=draft.type(c.type) if c.type else (original.type if original else ""),
                    value=c.up or quoted(c.column),
                    collation=original.collation if original is not None and c.type is None else None,
                    not_null=c.not_null if c.not_null is not None else bool(original and original.not_null),
                )
            )
        return found

    def _made(
        self, draft: Draft, sources: Sequence[_Source], label: str, problems: list[Problem]
    ) -> list[Target]:
        """The table that the migration makes, as the new side of each table's mapping."""
        columns = [self._mirrored(draft, source, problems) for source in sources]
        told = self._told_columns(problems)
        made = self._united_columns(sources, columns, problems)
        if problems:
            return []
        assert self.create is not None
        keys = [told[name] if name in told else self._key_column(sources, name) for name in self.key]
        created = self.create.model_copy(
            update={
                "columns": (
                    *(c for name, c in told.items() if name not in self.key),
                    *(c for c in self.create.columns if c.name not in told),
                )
            }
        )
        found = make_table(
            draft,
            sources[0].shape,
            self.to,
            keys,
            made,
            columns[0],
            created,
            f"{label}/to",
            problems,
            primary_key=created.primary_key,
        )
        return [] if found is None else self._sides(found, sources, columns)

    def _told_columns(self, problems: list[Problem]) -> dict[str, TableColumn]:
        """The columns that tell rows apart; of a constant whose type is plain, the type need not be said."""
        assert self.create is not None
        own = {c.name: c for c in self.create.columns}
        found: dict[str, TableColumn] = {}
        for name in self.told:
            if name in own:
                found[name] = own[name].model_copy(update={"not_null": True})
                continue
            types = {_plain_type(table.values[name]) for table in self.tables}
            if len(types) > 1 or None in types:
                problems.append(
                    Problem(
                        f"column {name} of {self.to} has no type",
                        remedy=f"Give it in `create`: `columns: [{{name: {name}, type: …}}]`.",
                    )
                )
                continue
            found[name] = TableColumn(name=name, type=str(types.pop()), not_null=True)
        return found

    def _united_columns(
        self,
        sources: Sequence[_Source],
        columns: Sequence[list[DraftMirrored]],
        problems: list[Problem],
    ) -> list[TableColumn]:
        """What all tables fill. NOT NULL is what all of them promise; a default is what all of them have."""
        names = dict.fromkeys(c.name for filled in columns for c in filled)
        made: list[TableColumn] = []
        for name in names:
            filled = [
                (s, c) for s, found in zip(sources, columns, strict=True) for c in found if c.name == name
            ]
            written = [c for s, _ in filled for c in s.asked.columns if c.column == name]
            # Where one table says the type, those that do not follow it.
            said = list(dict.fromkeys(d.type for (_, d), c in zip(filled, written, strict=True) if c.type))
            types = said or list(dict.fromkeys(d.type for _, d in filled))
            if len(types) > 1:
                problems.append(
                    Problem(
                        f"column {name} of {self.to} would be "
                        + ", and ".join(f"{d.type} by {s.shape.name}" for s, d in filled),
                        remedy="Give one `type` that holds the values of all.",
                    )
                )
                continue
            not_null = len(filled) == len(sources) and all(d.not_null for _, d in filled)
            for _, d in filled:
                if d.type != types[0]:
                    d.type, d.collation = types[0], None
                d.not_null = not_null
            defaults = {_default(s, c) for (s, _), c in zip(filled, written, strict=True)}
            default = defaults.pop() if len(filled) == len(sources) and len(defaults) == 1 else None
            collations = {d.collation for _, d in filled}
            collation = collations.pop() if len(collations) == 1 else None
            for _, d in filled:
                d.collation = collation
            made.append(
                TableColumn(name=name, type=types[0], not_null=not_null, default=default, collation=collation)
            )
        return made

    def _existing(
        self, draft: Draft, sources: Sequence[_Source], label: str, problems: list[Problem]
    ) -> list[Target]:
        """The table that is there, as the new side of each table's mapping."""
        del label
        targets: list[Target] = []
        columns: list[list[DraftMirrored]] = []
        for source in sources:
            columns.append(self._mirrored(draft, source, problems))
            key = dict(zip(self.shared, source.key, strict=True))
            found = existing_table(
                draft,
                source.shape,
                self.to,
                key,
                columns[-1],
                problems,
                unique=tuple(self.key),
                given=self.told,
            )
            if found is not None:
                targets.append(found)
        shape = draft.shape(self.to)
        if shape is not None:
            problems.extend(
                Problem(f"there is no column {name} in {shape.name}", rule="unknown-column")
                for name in self.told
                if shape.table.column(name) is None
            )
            problems.extend(self._check_existing_numbers(shape, sources))
        return [] if problems else self._sides(targets[0], sources, columns)

    def _check_existing_numbers(self, shape: TableShape, sources: Sequence[_Source]) -> Iterator[Problem]:
        """What numbers the rows of both versions must be the same."""
        for at, name in enumerate(self.shared):
            column = shape.table.column(name)
            if column is None or not (column.identity or is_sequence_default(column.default)):
                continue
            other = [s for s in sources if _number(s, s.key[at]) != column.default]
            if other or column.identity:
                yield Problem(
                    f"{name} of {shape.name} is numbered by a sequence of its own, and so are rows of {other[0].shape.name}: "
                    "rows of both versions would come to one key",
                    remedy="Let one sequence number all of them first, or leave the table to zdm (`create`).",
                    rule="two-rows-one-key",
                )

    def _sides(
        self, found: Target, sources: Sequence[_Source], columns: Sequence[list[DraftMirrored]]
    ) -> list[Target]:
        return [
            replace(
                found,
                side=replace(
                    found.side,
                    columns=mine,
                    told=dict(source.asked.values),
                    guarded=found.side.guarded or any(name not in self.key for name in self.told),
                ),
            )
            for source, mine in zip(sources, columns, strict=True)
        ]

    # --- numbers ------------------------------------------------------------------------------------------------------

    def _key_column(self, sources: Sequence[_Source], name: str) -> TableColumn:
        at = self.shared.index(name)
        column = _column(sources[0], sources[0].key[at])
        found = [number for s in sources if (number := _number(s, s.key[at])) is not None]
        default = None if name in self._numbered_apart(sources) else next(iter(found), None)
        return TableColumn(
            name=name, type=column.type, not_null=True, default=default, collation=column.collation
        )

    def _numbered_apart(self, sources: Sequence[_Source]) -> list[str]:
        """Key columns that each table numbers, or does not, in its own way, so that no default can do it."""
        if self.contested:
            return []
        return [
            name
            for at, name in enumerate(self.shared)
            if len({_number(source, source.key[at]) for source in sources}) > 1
        ]

    def _numbers(self, sources: Sequence[_Source]) -> list[dict[str, str]]:
        """For each table, what gives its rows of the new table their keys, where a default cannot."""
        apart = self._numbered_apart(sources) if self.create is not None else []
        return [
            {
                name: number
                for at, name in enumerate(self.shared)
                if name in apart and (number := _number(source, source.key[at])) is not None
            }
            for source in sources
        ]

    # --- the mappings -------------------------------------------------------------------------------------------------

    def _downs(self, source: _Source) -> dict[str, str]:
        downs = dict(source.asked.down)
        for name, copied in _copied(source).items():
            downs.setdefault(copied, quoted(name))
        return downs

    def _rows(self, source: _Source, target: Target, label: str, numbers: dict[str, str]) -> DraftRows:
        table = source.shape.table
        return DraftRows(
            operation=label,
            old=DraftSide(
                table=table.name,
                oid=table.oid,
                kind=SideKind.ROWS,
                key=list(source.key),
                columns=[
                    DraftMirrored(
                        name=name,
                        type=column.type,
                        value=value,
                        collation=column.collation,
                        not_null=column.not_null,
                        empty=column.default,
                    )
                    for name, value in self._downs(source).items()
                    if (column := table.column(name)) is not None
                ],
                readable=readable(table),
                fixed=[name for name in source.key if _column(source, name).identity == "always"],
            ),
            new=target.side,
            lossy=source.asked.lossy,
            loggable=self.apart,
            numbers=numbers,
            without_old_form=self.without_old_form,
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        """As `Operation.plan`."""
        planned: _Planned = context.draft.memo[context.label]
        steps = table_steps(planned.target, phase, context)
        if phase is Phase.CLEANUP and self.create is not None:
            steps += self._numbering(context, planned.target.side.table)
        for number, drop in enumerate(planned.drops):
            steps += [
                step.model_copy(update={"operation": context.label})
                for step in drop.plan(phase, replace(context, label=f"{context.label}/{number}/drop"))
            ]
        return steps

    def _numbering(self, context: Context, to: QualifiedName) -> list[Step]:
        """The new table numbers its rows itself from then on."""
        draft = context.draft
        names = [draft.name(table.table) for table in self.tables]
        steps: list[Step] = []
        for name in self.shared:
            keys = [table.key.get(name, self.key[name]) for table in self.tables]
            columns = [draft.tables[table].column(key) for table, key in zip(names, keys, strict=True)]
            found = [c for c in columns if c is not None]
            if not any(c.identity or is_sequence_default(c.default) for c in found):
                continue
            sources = sql.Literal([ddl.table(table).as_string(None) for table in names])
            one = len({c.default for c in found}) == 1 or self.contested
            table, column = sql.Literal(ddl.table(to).as_string(None)), sql.Literal(name)
            if one and not any(c.identity for c in found):
                title = f"let {name} of {to} own the sequence that numbers it"
                statement = dollar_quoted("union_sequence", table=table, column=column, sources=sources)
            else:
                title = f"number {name} of {to} by a sequence of its own, after those of the old tables"
                statement = dollar_quoted(
                    "union_identity", table=table, column=column, sources=sources, columns=sql.Literal(keys)
                )
            steps.append(
                Step(
                    id=f"cleanup.{to}.sequence.{name}",
                    title=title,
                    phase=Phase.CLEANUP,
                    stage=Stage.TIGHTEN,
                    operation=context.label,
                    action=Transaction(statements=(statement.as_string(None),), locks=(ddl.lock(to),)),
                )
            )
        return steps


def _column(source: _Source, name: str) -> Column:
    found = source.shape.table.column(name)
    assert found is not None, name
    return found


def _copied(source: _Source) -> dict[str, str]:
    """Columns of the new table that are the old one's as they are, and these."""
    return {
        c.column: original.name
        for c in source.asked.columns
        if (original := source.shape.table.column(c.up or c.column)) is not None
    }


def _default(source: _Source, written: PartColumn) -> str | None:
    """The default that one table would have for a column."""
    original = source.shape.table.column(written.up or written.column)
    if written.default is not None or original is None or written.type is not None:
        return written.default
    return original.default


def _number(source: _Source, name: str) -> str | None:
    """What gives a key column of a table its value where none is named, as SQL."""
    column = _column(source, name)
    if not column.identity:
        return column.default
    # By its number: the fence gives the table another name for a while.
    return ddl.text(
        "pg_catalog.nextval(pg_catalog.pg_get_serial_sequence({t}::pg_catalog.regclass::pg_catalog.text, {c})::pg_catalog.regclass)",
        t=sql.Literal(str(source.shape.table.oid)),
        c=sql.Literal(name),
    )


def _plain_type(constant: str) -> str | None:
    return next(
        (
            type_
            for pattern, type_ in _CONSTANTS
            if re.fullmatch(pattern, constant, re.DOTALL | re.IGNORECASE)
        ),
        None,
    )
