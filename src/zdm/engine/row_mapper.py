"""From the row mappings that operations ask for to checked ones: what the server has to say to their expressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from psycopg import sql

from zdm.db.expressions import CheckColumn, Derived, Request
from zdm.db.introspect import type_comparison
from zdm.db.session import fetch_value, transaction
from zdm.db.write_path import open_to_all
from zdm.engine.comparable import refuse_incomparable
from zdm.engine.element_mapper import element_mapping
from zdm.engine.key_mapper import forced
from zdm.engine.mapper import Mapper
from zdm.engine.parent_mapper import parent_mapping
from zdm.engine.union_mapper import told_apart, unite
from zdm.errors import Problem
from zdm.model.expression import ColumnRef, Expression, Volatility
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, qualified
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import MirroredColumn, RowMapping, RowSide, SideKind, SyncMode, derived
from zdm.operations.rows import DraftRows, DraftSide
from zdm.operations.shape import BEFORE

OURS: Final = "zdm_"
"""How the variables, aliases and arguments of the functions that mirror rows begin."""


def row_mappings(mapper: Mapper, tables: Iterable[TableMapping]) -> tuple[RowMapping, ...]:
    """Every row mapping of the draft, checked; problems are collected in the mapper."""
    _refuse_our_names(mapper)
    if _refuse_forced(mapper) or refuse_incomparable(mapper):
        return ()  # their rows cannot be measured
    taken = {table.table for table in tables if table.needs_sync}
    found: list[RowMapping] = []
    for number, draft in enumerate(mapper.draft.rows, 1):
        if mapper.draft.sync is SyncMode.LOGGED:
            _check_logged(mapper, draft)
        make = _one if draft.parent is None else parent_mapping
        made = (make if draft.elements is None else element_mapping)(mapper, number, draft, taken)
        if made is not None:
            taken.add(made.id)
            found.append(made)
    _refuse_cycles(mapper, found)
    made_whole = tuple(_with_path(mapper, mapping) for mapping in unite(mapper, _lending(found)))
    _warn_of_open_schemas(mapper, made_whole)
    return made_whole


def _lending(mappings: Sequence[RowMapping]) -> list[RowMapping]:
    """Where a table's rows are split among several, what the part that came first lends a column of another one says nothing of that."""
    made: list[RowMapping] = []
    for mapping in mappings:
        if mapping.old.kind is not SideKind.ROWS:
            made.append(mapping)
            continue
        lent = {
            c.name: c
            for other in mappings
            if other.old.table == mapping.old.table and other is not mapping
            for c in other.old.columns
            if c.once
        }
        columns = tuple(
            c
            if c.once or c.name not in lent
            else c.model_copy(
                update={
                    "empty": lent[c.name].value.render(sql.Identifier).as_string(None),
                    "known_empty": lent[c.name].value.volatility is Volatility.IMMUTABLE,
                }
            )
            for c in mapping.old.columns
        )
        old = mapping.old.model_copy(update={"columns": columns})
        made.append(mapping.model_copy(update={"old": old}))
    return made


def _warn_of_open_schemas(mapper: Mapper, mappings: Sequence[RowMapping]) -> None:
    """Whoever may make functions where the functions that mirror rows look names up could have one run as the tables' owner."""
    path = dict.fromkeys(name for mapping in mappings for name in mapping.path)
    mapper.findings += [
        Finding(
            severity=Severity.WARNING,
            text=f"every role may create functions in schema {name}, where names are looked up while rows are mirrored as the tables' owner: "
            f"REVOKE CREATE ON SCHEMA {name} FROM PUBLIC, or take it out of the owner's search_path",
        )
        for name in (open_to_all(mapper.conn, path) if path else ())
    ]


def _refuse_our_names(mapper: Mapper) -> None:
    """What the functions that mirror rows call their own variables and tables cannot be columns: nothing could tell which is meant."""
    found: dict[QualifiedName, dict[str, str]] = {}
    for draft in mapper.draft.rows:
        sides = (draft.old, draft.new) if draft.parent is None else (draft.old, draft.new, draft.parent.side)
        for side in sides:
            there = mapper.draft.existing(side.table)
            names = [c.name for c in there.columns] if there is not None else [n for n, *_ in side.readable]
            for name in [*names, *side.key, *(c.name for c in side.columns)]:
                if name.startswith(OURS):
                    found.setdefault(side.table, {})[name] = draft.operation
    mapper.problems += [
        Problem(
            f"{', '.join(names)} of {table}: columns whose names begin with {OURS} cannot be told from what the functions call so that "
            "keep this table's rows in step with another one's",
            next(iter(names.values())),
            "Rename the column in an earlier migration (rename_column), or give the new one another name.",
            rule="name-taken",
        )
        for table, names in found.items()
    ]


def _refuse_forced(mapper: Mapper) -> bool:
    """Functions that mirror rows run as the tables' owner, and zdm reads as itself: a row that a policy hides from either would be lost."""
    told: set[int] = set()
    for draft in mapper.draft.rows:
        sides = (draft.old, draft.new) if draft.parent is None else (draft.old, draft.new, draft.parent.side)
        for side in sides:
            if side.oid in told or not forced(mapper.conn, side.oid):
                continue
            told.add(side.oid)
            mapper.problems.append(
                Problem(
                    f"{side.table} has row security that holds for its owner as well, so not every row could be kept in step",
                    draft.operation,
                    f"ALTER TABLE {side.table} NO FORCE ROW LEVEL SECURITY until cleanup.",
                    "row-security-views",
                )
            )
    return bool(told)


def _with_path(mapper: Mapper, mapping: RowMapping) -> RowMapping:
    old = mapper.draft.existing(mapping.old.table)
    assert old is not None  # only the new side's table may be made
    return mapping.model_copy(update={"path": mapper.path(old.owner, *mapping.tables)})


def _refuse_cycles(mapper: Mapper, mappings: Sequence[RowMapping]) -> None:
    """A write that is mirrored on from table to table must not come back to where it began, in another form."""
    ahead: dict[QualifiedName, dict[QualifiedName, str]] = {}
    for mapping in mappings:
        for table in mapping.tables[1:]:
            if table != mapping.old.table:
                ahead.setdefault(mapping.old.table, {})[table] = mapping.operation
    told: set[frozenset[QualifiedName]] = set()

    def follow(way: tuple[QualifiedName, ...]) -> None:
        for table, operation in ahead.get(way[-1], {}).items():
            if table not in way:
                follow((*way, table))
            elif table == way[0] and frozenset(way) not in told:
                told.add(frozenset(way))
                mapper.problems.append(
                    Problem(
                        f"rows are mirrored in a circle: {' to '.join(str(name) for name in (*way, table))}",
                        operation,
                        "Put one of these operations into a later migration.",
                    )
                )

    for table in ahead:
        follow((table,))


def _one(mapper: Mapper, number: int, draft: DraftRows, taken: set[QualifiedName]) -> RowMapping | None:
    before = len(mapper.problems)
    _check_stays(mapper, draft)
    old = _side(mapper, draft, draft.old, draft.new)
    new = _side(mapper, draft, draft.new, draft.old)
    where = None
    if draft.where is not None:
        request = Request(draft.operation, draft.where, derived=Derived.ALWAYS)
        where = mapper.check(draft.old.table.name, _columns(draft.old), {"where": request}).get("where")
        if where is not None and where.type != "boolean":
            mapper.problems.append(
                Problem(f"{draft.where!r} is of type {where.type}; a condition is needed", draft.operation)
            )
    _check_gone(mapper, draft, old, where)
    if draft.new.kind is SideKind.COLUMNS:
        mapper.problems += [
            Problem(
                f"column {c.name} of {new.table} would have {c.empty} where {old.table} has no row, which is another value each time",
                draft.operation,
                "Say with `empty` what it holds there: a constant, or NULL.",
            )
            for c in new.columns
            if not c.known_empty
        ]
    if len(mapper.problems) > before:
        return None
    # What several tables fill is no name for one of the mappings.
    id_ = old.table if new.told else new.table
    if id_ in taken:
        id_ = qualified(new.table.schema_, f"{old.table.name} to {new.table.name}")
    made = RowMapping(
        id=id_,
        number=number,
        operation=draft.operation,
        old=old,
        new=new,
        where=where,
        presence=draft.presence,
        one_way=draft.one_way,
        logged=mapper.draft.sync is SyncMode.LOGGED,
        without_old_form=draft.without_old_form,
        replaces=draft.replaces,
        numbers=tuple(draft.numbers.items()),
    )
    _tell_derived(mapper, made)
    return made


def _tell_derived(mapper: Mapper, mapping: RowMapping) -> None:
    """Say what the new version may not write otherwise; of columns the operation says it itself."""
    only = derived(mapping, "new")
    if not only or mapping.one_way or mapping.old.kind is SideKind.COLUMNS:
        return
    what = "recorded" if mapping.records else "refused (23000)"
    mapper.findings.append(
        Finding(
            severity=Severity.NOTE,
            text=f"nothing of {mapping.old.table} follows from {', '.join(c.name for c in only)} of {mapping.new.table}: until cleanup a "
            f"row of the new version that says anything else there than what follows from its row of {mapping.old.table} is {what}",
            where=mapping.operation,
        )
    )


def _check_logged(mapper: Mapper, draft: DraftRows) -> None:
    """What a write in one table needs in the other one at once cannot wait for a reconciler."""
    if not draft.loggable:
        mapper.problems.append(
            Problem(
                f"rows of {draft.old.table} and {draft.new.table} cannot be synced by log: only those of move_columns, "
                "split_table, shadow_table, extract_json, explode, collapse with one_way, normalise with reference, and merge_tables where what tells rows apart is part of the key, can",
                draft.operation,
                "Use `sync: immediate`, or put this operation into a migration of its own.",
                rule="logged-sync",
            )
        )
        return
    mapper.problems += _reactions(mapper, draft)
    if (draft.elements is not None and draft.elements.one == "new") or draft.parent is not None:
        # Neither side's rows are made or removed for the other's sake, but in a table that the migration makes.
        return
    for here, there in ((draft.new, draft.old), (draft.old, draft.new)):
        if here.created or there.created:
            continue
        rows = mapper.conn.execute(
            "SELECT conname::text FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid = %s AND confrelid = %s"
            " AND (confdeltype <> 'c' OR confupdtype <> 'c') ORDER BY conname",
            (here.oid, there.oid),
        ).fetchall()
        mapper.problems += [
            Problem(
                f"foreign key {name} of {here.table} to {there.table} would refuse what is deleted there, or a key that changes: with "
                "`sync: logged` the row of the other table is still there at that moment",
                draft.operation,
                "Make it ON DELETE CASCADE ON UPDATE CASCADE first, or use `sync: immediate`.",
                rule="logged-sync",
            )
            for (name,) in rows
        ]


def _reactions(mapper: Mapper, draft: DraftRows) -> list[Problem]:
    """Foreign keys that write rows which say what they said before: the other table's may say something else already."""
    found: list[Problem] = []
    for side in (draft.old, draft.new):
        rows = mapper.conn.execute(
            "SELECT c.conname::text, c.confrelid::pg_catalog.regclass::text FROM pg_catalog.pg_constraint AS c WHERE c.contype = 'f'"
            " AND c.conrelid = %s AND (c.confdeltype IN ('c', 'n', 'd') OR c.confupdtype IN ('c', 'n', 'd'))"
            " AND EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)"
            " AND a.attname = ANY (%s)) ORDER BY 1",
            (side.oid, [*(c.name for c in side.columns), *_elements(draft, side)]),
        ).fetchall()
        found += [
            Problem(
                f"foreign key {name} of {side.table} deletes or writes rows when {table} does: with `sync: logged` they may say what the "
                "other version has changed already, so that the wrong rows would go",
                draft.operation,
                "Make it NO ACTION first, or use `sync: immediate`.",
                rule="logged-sync",
            )
            for name, table in [*rows, *side.reactions]
        ]
    return found


def _elements(draft: DraftRows, side: DraftSide) -> list[str]:
    """What a mapping of one row to many fills on a side."""
    if draft.elements is None:
        return []
    one = draft.old if draft.elements.one == "old" else draft.new
    return [c.name for c in (draft.elements.held if side is one else draft.elements.columns)]


def _columns(side: DraftSide) -> Sequence[CheckColumn]:
    return [CheckColumn(name, name, type_, collation) for name, type_, collation in side.readable]


def _values(
    mapper: Mapper, draft: DraftRows, side: DraftSide, other: DraftSide
) -> tuple[dict[str, Expression], dict[str, Expression]]:
    """What the side's columns are over the other side's row, and what they are without one where that is over their own."""
    own = [CheckColumn(f"{BEFORE}{n}", n, type_, c, own=True) for n, type_, c in side.readable]
    found: dict[str, Expression] = {}
    for both in (False, True):
        requests = {
            c.name: Request(draft.operation, c.value, c.type, c.collation, derived=Derived.BY_ROW)
            for c in side.columns
            if c.over_both is both
        }
        found |= mapper.check(other.table.name, [*_columns(other), *(own if both else [])], requests)
    cleared = {
        c.name: Request(draft.operation, c.cleared, c.type, c.collation)
        for c in side.columns
        if c.cleared is not None
    }
    return found, mapper.check(side.table.name, _columns(side), cleared)


def _check_stays(mapper: Mapper, draft: DraftRows) -> None:
    """What both versions know by one column, and another operation changes, would be written by both."""
    shape = mapper.draft.shapes.get(draft.old.table)
    for group in shape.groups if shape is not None else ():
        mapper.problems += [
            Problem(
                f"column {c.name} of {draft.old.table} is written by {group.operation}, and mirrored in {draft.new.table}",
                draft.operation,
                "Change it in one migration, and give it another table in the next.",
            )
            for c in draft.old.columns
            if c.name in group.old and group.operation != draft.operation
        ]


def _side(mapper: Mapper, draft: DraftRows, side: DraftSide, other: DraftSide) -> RowSide:
    values, cleared = _values(mapper, draft, side, other)
    empties = mapper.check(
        side.table.name,
        [],
        {
            c.name: Request(draft.operation, c.empty, c.type, c.collation, allow_volatile=True)
            for c in side.columns
            if c.empty is not None
        },
    )
    types = {name: type_ for name, type_, _ in side.readable}
    told = told_apart(mapper, draft.operation, side)
    columns: list[MirroredColumn] = []
    for c in side.columns:
        value = values.get(c.name)
        if value is None:
            continue
        empty = empties.get(c.name)
        columns.append(
            MirroredColumn(
                name=c.name,
                type=c.type,
                comparison=type_comparison(mapper.conn, c.type, c.collation),
                value=value,
                not_null=c.not_null,
                empty=None if empty is None else empty.render(sql.Identifier).as_string(None),
                known_empty=empty is None or empty.volatility is Volatility.IMMUTABLE,
                cleared=cleared.get(c.name),
                reference=c.reference,
                apart=c.apart,
            )
        )
    other_types = {name: type_ for name, type_, _ in other.readable}
    constants = {t.name: t.value for t in told}
    across = iter(other.shared)
    return RowSide(
        table=side.table,
        oid=side.oid,
        kind=side.kind,
        key=tuple(side.key),
        key_values=tuple(
            constants.get(key, _plain(key, types[key]))
            if key in side.told
            else _plain(name := next(across), other_types[name])
            for key in side.key
        ),
        key_types=tuple(types[name] for name in side.key),
        columns=tuple(columns),
        guarded=side.guarded,
        created=side.created,
        gone=_gone(mapper, draft, side),
        fixed=tuple(side.fixed),
        within=tuple(side.within),
        required=tuple(side.required),
        loose=side.loose,
        told=told,
    )


def _plain(name: str, type_: str) -> Expression:
    return Expression(source=name, parts=(ColumnRef(column=name),), type=type_)


def _gone(mapper: Mapper, draft: DraftRows, side: DraftSide) -> tuple[tuple[str, str], ...]:
    types = {name: (type_, collation) for name, type_, collation in side.readable}
    requests = {
        name: Request(draft.operation, text, *types[name])
        for name, text in side.gone.items()
        if name in types
    }
    found = mapper.check(side.table.name, [], requests)
    mapper.problems += [
        Problem(f"there is no column {name} in {side.table}", draft.operation, rule="unknown-column")
        for name in side.gone
        if name not in types
    ]
    return tuple((name, value.render(sql.Identifier).as_string(None)) for name, value in found.items())


def _check_gone(mapper: Mapper, draft: DraftRows, old: RowSide, where: Expression | None) -> None:
    """What a row is given instead of being deleted must take it out of the mapping, or its row would be made again."""
    given = dict(old.gone)
    if not given:
        return
    met = where is None
    if where is not None and set(where.columns) <= given.keys():
        types = dict(zip((name for name, _, _ in draft.old.readable), draft.old.readable, strict=True))
        asked = where.render(
            lambda name: sql.SQL("CAST({} AS {})").format(sql.SQL(given[name]), sql.SQL(types[name][1]))
        )
        with transaction(mapper.conn, read_only=True, rollback=True):
            met = fetch_value(mapper.conn, sql.SQL("SELECT {} IS TRUE").format(asked))
    if met:
        mapper.problems.append(
            Problem(
                f"a row with {', '.join(f'{name} = {value}' for name, value in given.items())} still has a row in "
                f"{draft.new.table}, so it would be made again as soon as the new version deletes it",
                draft.operation,
                "Give `gone` values that `where` leaves out.",
            )
        )
