"""Pieces of SQL about single rows that the backfill, the verification and the repair share with the sync triggers.

Everything is over the bare columns of the table, or over `alias` where one is given. Run them in a session with
`PINNED_SETTINGS`, and at READ COMMITTED, so that values are computed over the locked row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from psycopg import sql

from zdm.model.expression import Expression
from zdm.model.mapping import (
    FAILED,
    TOGGLE,
    Authority,
    ColumnGroup,
    NewColumn,
    OldColumn,
    SharedParent,
    TableMapping,
)
from zdm.sql.identifiers import (
    all_of,
    any_of,
    column,
    comma,
    differs,
    key_type,
    qualified_name,
    trusted,
    type_name,
)
from zdm.sql.pairs import dangling

REPAIR = 1 << 30
"""The marker's spare bit. It is never stored: a statement that sets it tells the triggers that it settles the row itself."""

SETTLING = "zdm.settling"
"""A setting that is ``on`` where zdm itself writes rows, so that triggers of the user's which watch new columns let it pass."""

PINNED_SETTINGS: dict[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "xmlbinary": "base64",
    "xmloption": "content",
    "default_text_search_config": "pg_catalog.simple",
    "standard_conforming_strings": "on",
}
"""What stable expressions may depend on. The sync functions pin the same, so every derivation of a value gives one result."""


class Kind(StrEnum):
    """What the verification can find wrong with a row."""

    UNSETTLED = "unsettled"  # nobody has filled the new side
    FAILED = "failed"  # up raised, or gave NULL where the new version promises none
    STALE_NEW = "stale_new"  # the old side wrote last, and new is not up(old)
    STALE_OLD = "stale_old"  # the new side wrote last, and old is not down(new)
    NULL_NEW = "null_new"  # NULL where the new version promises NOT NULL
    MISSING = "missing"  # of a row mapping: the old side's row has none on the new side
    EXTRA = "extra"  # of a row mapping: a row of the new side that no row of the old side makes
    DIFFERENT = "different"  # of a row mapping: both are there, and neither follows from the other


def describe(counts: Mapping[str, int]) -> str:
    """What a verification found, for people: by `Kind`, and by constraint for rows that break one."""
    kinds = set(Kind)
    return ", ".join(
        f"{count} {kind.replace('_', ' ')}"
        if kind in kinds
        else f"{count} {'rows that break' if count != 1 else 'row that breaks'} {kind}"
        for kind, count in sorted(counts.items())
        if count
    )


class Mismatch(NamedTuple):
    """One kind of disagreement. `group` is empty where the kind is about the whole row; `predicate` is never NULL."""

    kind: Kind
    group: str
    predicate: sql.Composable


def render(expression: Expression, alias: str | None = None, own: str | None = None) -> sql.Composed:
    """The expression over the columns of the row; `own` is the alias of the row that gets the value, where it reads that as well."""
    return expression.render(
        lambda name: column(name, alias), None if own is None else lambda name: column(name, own)
    )


def filled_once(new: NewColumn) -> sql.Composable | None:
    """What gives a row of the old version its value once, when no `up` derives it: the fill, else the default."""
    if new.up is not None:
        return None
    if new.fill is not None:
        return render(new.fill)
    return sql.SQL("({})").format(trusted(new.default)) if new.default is not None else None


def unsettled(mapping: TableMapping, alias: str | None = None) -> sql.Composable:
    """Nobody has settled the row yet. What the backfill looks for."""
    return sql.SQL("({} IS NULL)").format(column(mapping.marker, alias))


def failed(mapping: TableMapping, alias: str | None = None) -> sql.Composable:
    """`up` raised for the row and nothing has cured it since."""
    return sql.SQL("((COALESCE({}, 0) OPERATOR(pg_catalog.&) {}) OPERATOR(pg_catalog.<>) 0)").format(
        column(mapping.marker, alias), sql.Literal(FAILED)
    )


def has_parent(
    where: Expression | None, values: Iterable[Expression], alias: str | None = None
) -> sql.Composable:
    """A condition over a row of the old version, never NULL: by its values it has a row of a shared table."""
    if where is not None:
        return sql.SQL("({} IS TRUE)").format(render(where, alias))
    return all_of(sql.SQL("({} IS NOT NULL)").format(render(value, alias)) for value in values)


def natural_key(parent: SharedParent, alias: str | None = None) -> list[sql.Composable]:
    """Its natural key by a row of the old version. A cast to a length would cut what is longer; such a value is another one."""
    return [
        sql.SQL("CAST({} AS {})").format(render(value, alias), key_type(type_))
        for value, type_ in zip(parent.key_values, parent.key_types, strict=True)
    ]


def fill_assignments(
    mapping: TableMapping, given: Mapping[str, sql.Composable] | None = None
) -> sql.Composed:
    """SET list of the backfill's UPDATE: every new column derived from the row itself, and the marker.

    The sync triggers see the marker go from NULL to settled and call no function. An `up` that raises stops the statement:
    repeat the chunk with `settle_assignments`. An `up` that gives NULL where the new version promises none marks the row
    as failed, and the failure is recorded.

    Parameters
    ----------
    given: the values of columns that are not to be derived, by physical name.
    """
    parts: list[sql.Composable] = []
    promised: list[sql.Composable] = []
    refers = {group.new[0].name: group.old[0].name for group in mapping.groups if group.lookup is not None}
    for new in _new_columns(mapping):
        if new.up is not None:
            value = (given or {}).get(new.name) or render(new.up)
            parts.append(sql.SQL("{} = {}").format(column(new.name), value))
            if new.name in refers:
                promised.append(dangling(value, column(refers[new.name])))
            elif new.not_null:
                promised.append(sql.SQL("({}) IS NULL").format(value))
        elif (once := filled_once(new)) is not None:
            parts.append(sql.SQL("{0} = COALESCE({0}, {1})").format(column(new.name), once))
    settled: sql.Composable = sql.Literal(mapping.settled_bits)
    if promised:
        settled = sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
            any_of(promised), sql.Literal(mapping.settled_bits | FAILED), settled
        )
    parts.append(sql.SQL("{} = {}").format(column(mapping.marker), settled))
    return comma(parts)


def settle_assignments(mapping: TableMapping) -> sql.Composed:
    """SET list that changes nothing itself and so lets the triggers settle each unsettled or failed row.

    Slower than `fill_assignments`, but an `up` that raises is caught row by row and recorded in ``zdm.sync_failures``.
    For chunks in which `fill_assignments` raised, and to retry failed rows once their cause is gone.
    """
    return sql.SQL("{0} = {0}").format(column(mapping.marker))


def mismatch_kinds(mapping: TableMapping, alias: str | None = None) -> list[Mismatch]:
    """Everything that can be wrong with a row, as conditions that are never NULL and exclude each other per group.

    Expressions are evaluated only on rows where they must hold (CASE), so an `up` that raises on a row already recorded as
    failed does not stop the verification.
    """
    found = [
        Mismatch(Kind.UNSETTLED, "", unsettled(mapping, alias)),
        Mismatch(Kind.FAILED, "", failed(mapping, alias)),
    ]
    for group in mapping.groups:
        ups = new_disagrees(group, alias)
        downs = [_old_differs(old, alias) for old in group.old if old.down is not None]
        if group.parent is not None:
            downs += _strange(group, group.parent, alias)
        promised = [
            sql.SQL("({} IS NULL)").format(column(new.name, alias)) for new in group.new if new.not_null
        ]
        if ups:
            found.append(
                Mismatch(Kind.STALE_NEW, group.name, _where(mapping, group, alias, new_last=False, then=ups))
            )
        if downs:
            found.append(
                Mismatch(Kind.STALE_OLD, group.name, _where(mapping, group, alias, new_last=True, then=downs))
            )
        if promised:
            sound = all_of(
                [sql.SQL("{} IS NOT NULL").format(column(mapping.marker, alias)), _sound(mapping, alias)]
            )
            found.append(Mismatch(Kind.NULL_NEW, group.name, all_of([sound, any_of(promised)])))
    return found


def new_disagrees(group: ColumnGroup, alias: str | None = None) -> list[sql.Composable]:
    """Conditions over a row whose old side was written last, never NULL: a new column is not what `up` says."""
    if group.parent is not None:
        return [_other_parent(group, group.parent, alias)]
    return [_new_differs(new, alias) for new in group.new if new.up is not None]


def repair_assignments(
    mapping: TableMapping,
    group: ColumnGroup,
    authority: Authority,
    given: Mapping[str, sql.Composable] | None = None,
) -> sql.Composed | None:
    """SET list that makes one group of a row agree again, the authority's side being the truth.

    Old: ``new = up(old)``; new: ``old = down(new)``. None if that side derives nothing (then a person has to decide). Other
    groups, and whatever they say of who wrote last, stay as they are. `given` as for `fill_assignments`. Copies follow from another
    table's row whoever is the authority; the triggers look them up once more, since that may change until this row is locked.
    """
    parts: list[sql.Composable] = []
    if group.copied is not None:
        return comma(
            sql.SQL("{} = {}").format(column(n.name), render(n.up)) for n in group.new if n.up is not None
        )
    if authority is Authority.OLD:
        parts += [
            sql.SQL("{} = {}").format(column(n.name), (given or {}).get(n.name) or render(n.up))
            for n in group.new
            if n.up is not None
        ]
    else:
        parts += [
            sql.SQL("{} = {}").format(column(o.name), render(o.down)) for o in group.old if o.down is not None
        ]
    if not parts:
        return None
    parts.append(_marked(mapping, group, authority, cleared=FAILED if len(mapping.groups) == 1 else 0))
    return comma(parts)


def fail_assignments(mapping: TableMapping, group: ColumnGroup, authority: Authority) -> sql.Composable:
    """SET list that marks a row which the repair cannot derive as failed; a trigger records why, and the next write tries again."""
    return _marked(mapping, group, authority, added=FAILED)


def _marked(
    mapping: TableMapping, group: ColumnGroup, authority: Authority, *, cleared: int = 0, added: int = 0
) -> sql.Composed:
    """The assignment of the marker by the repair: who wrote the group last is the authority's side."""
    added |= REPAIR | (group.bit if authority is Authority.NEW else 0)
    return sql.SQL("{0} = (COALESCE({0}, {1}) OPERATOR(pg_catalog.&) {2}) OPERATOR(pg_catalog.|) {3}").format(
        column(mapping.marker),
        sql.Literal(TOGGLE),
        sql.SQL("({})").format(sql.Literal(~(group.bit | cleared))),
        sql.Literal(added),
    )


def _other_parent(group: ColumnGroup, parent: SharedParent, alias: str | None) -> sql.Composable:
    """The row does not refer to the parent that its values say, or refers to one where they say none."""
    none = any_of(sql.SQL("({} IS NULL)").format(column(new.name, alias)) for new in group.new)
    return sql.SQL("(CASE WHEN {} THEN NOT {} ELSE NOT {} END)").format(
        has_parent(parent.where, parent.key_values, alias),
        _exists(group, parent, range(len(parent.key)), alias),
        none,
    )


def _strange(group: ColumnGroup, parent: SharedParent, alias: str | None) -> list[sql.Composable]:
    """The row refers to a parent that differs in what of the natural key no old column of the group holds."""
    if not (staying := parent_key_beside(group, parent)):
        return []
    some = all_of(sql.SQL("({} IS NOT NULL)").format(column(new.name, alias)) for new in group.new)
    return [all_of([some, sql.SQL("NOT {}").format(_exists(group, parent, staying, alias))])]


def parent_key_beside(group: ColumnGroup, parent: SharedParent) -> list[int]:
    """Which columns of the natural key follow from nothing that the group's old columns hold; they cannot be written back."""
    held = {old.name for old in group.old}
    return [n for n, value in enumerate(parent.key_values) if held.isdisjoint(value.columns)]


def _exists(
    group: ColumnGroup, parent: SharedParent, of_key: Iterable[int], alias: str | None
) -> sql.Composable:
    """The parent that the row refers to has these of the natural key's columns as the row says."""
    values = natural_key(parent, alias)
    wanted = [(parent.key[n], values[n]) for n in of_key]
    wanted += [(name, column(new.name, alias)) for name, new in zip(parent.identity, group.new, strict=True)]
    # In a row of their own, where no column of the parent can be meant by a name.
    return sql.SQL("EXISTS (SELECT FROM (SELECT {}) AS zdm_q JOIN {} AS zdm_p ON {})").format(
        comma(sql.SQL("{} AS {}").format(value, column(f"zdm_{n}")) for n, (_, value) in enumerate(wanted)),
        qualified_name(parent.table),
        all_of(
            sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(
                column(name, "zdm_p"), column(f"zdm_{n}", "zdm_q")
            )
            for n, (name, _) in enumerate(wanted)
        ),
    )


def _new_columns(mapping: TableMapping) -> list[NewColumn]:
    return [new for group in mapping.groups for new in group.new]


def _new_differs(new: NewColumn, alias: str | None) -> sql.Composable:
    assert new.up is not None
    derived = sql.SQL("CAST({} AS {})").format(render(new.up, alias), type_name(new.type))
    return differs(column(new.name, alias), derived, new.comparison, new.type)


def _old_differs(old: OldColumn, alias: str | None) -> sql.Composable:
    assert old.down is not None
    derived = sql.SQL("CAST({} AS {})").format(render(old.down, alias), type_name(old.type))
    return differs(column(old.name, alias), derived, old.comparison, old.type)


def _sound(mapping: TableMapping, alias: str | None) -> sql.Composable:
    return sql.SQL("NOT {}").format(failed(mapping, alias))


def _where(
    mapping: TableMapping,
    group: ColumnGroup,
    alias: str | None,
    *,
    new_last: bool,
    then: list[sql.Composable],
) -> sql.Composable:
    marker = column(mapping.marker, alias)
    wrote = sql.SQL("(({} OPERATOR(pg_catalog.&) {}) OPERATOR(pg_catalog.{}) 0)").format(
        marker, sql.Literal(group.bit), sql.SQL("<>" if new_last else "=")
    )
    settled = all_of([sql.SQL("{} IS NOT NULL").format(marker), wrote, _sound(mapping, alias)])
    return sql.SQL("(CASE WHEN {} THEN {} ELSE false END)").format(settled, any_of(then))
