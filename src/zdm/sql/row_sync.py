"""What keeps both sides of a row mapping in step, whatever its kind: installed, removed, and found again.

Names:

* functions ``zdm.rows_<rollout>_<number>_<purpose>``,
* triggers ``!zdm_rows_<number>_<purpose>``: they fire before the server's own foreign key triggers, so that a row of the other
  side is gone before a constraint looks for it. What an application's trigger changes afterwards fires them again.
"""

from __future__ import annotations

from functools import lru_cache

from psycopg import sql

from zdm.model.row_mapping import RowMapping
from zdm.model.step import Transaction
from zdm.sql import (
    collapsed_sync,
    element_log,
    element_record,
    element_rows,
    element_sync,
    gathered_log,
    gathered_sync,
    group_sync,
    join_record,
    link_record,
    parent_conditions,
    parent_sync,
    records,
    reference_log,
    reference_sync,
    row_conditions,
    row_generator,
    row_log,
    row_record,
    row_union,
    union_log,
    union_record,
)
from zdm.sql.identifiers import SCHEMA, comma, qualified_name
from zdm.sql.row_objects import (
    Objects,
    Side,
    name_of,
    sides,
    text_of,
    trigger_of,
)
from zdm.sql.sync import ExpectedObject
from zdm.sql.sync_generator import SyncObjects
from zdm.sql.templates import dollar_quoted

KEPT = 16
"""Answers that are kept: to plan, estimate, install and check ask for the same ones, and to compose them takes long."""


@lru_cache(maxsize=KEPT)
def install(mapping: RowMapping, rollout: int, side: Side) -> SyncObjects:
    """What mirrors writes of one side: functions, then its triggers, which take SHARE ROW EXCLUSIVE on its table. Repeatable."""
    made = _objects(mapping, rollout, side)
    functions = [statement for f in made.functions for statement in f.statements]
    functions.append(made.owner())
    triggers: list[sql.Composable] = [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(t.name), made.table)
        for t in made.triggers
    ]
    triggers += [t.definition for t in made.triggers]
    always = [sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(t.name)) for t in made.triggers]
    if always:
        triggers.append(sql.SQL("ALTER TABLE {} {}").format(made.table, comma(always)))
    return SyncObjects(
        tuple(map(text_of, functions)), tuple(map(text_of, triggers)), (text_of(made.comments()),)
    )


def install_together(mapping: RowMapping, rollout: int) -> SyncObjects:
    """What mirrors writes of all sides; SHARE ROW EXCLUSIVE on the table of each. The new side comes first: others call its functions."""
    made = [install(mapping, rollout, side) for side in reversed(sides(mapping))]
    return SyncObjects(
        tuple(statement for one in made for statement in one.functions),
        tuple(statement for one in made for statement in one.triggers),
        tuple(statement for one in made for statement in one.comments),
    )


@lru_cache(maxsize=KEPT)
def drop_triggers(mapping: RowMapping, side: Side) -> tuple[str, ...]:
    """What removes one side's triggers, whether they are there or not; ACCESS EXCLUSIVE on its table, briefly."""
    made = _objects(mapping, 0, side)
    return tuple(
        text_of(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(t.name), made.table))
        for t in made.triggers
    )


def drop_functions(mapping: RowMapping, rollout: int, side: Side) -> tuple[str, ...]:
    """What removes one side's functions once no trigger calls them; no lock on a table. Works without the tables."""
    names = _function_names(mapping, rollout, side)
    dropped = (text_of(dollar_quoted("row_drop", names=sql.Literal(names), schema=sql.Literal(SCHEMA))),)
    if mapping.logged and side == "old":
        return (*dropped, row_log.forget(mapping, rollout))
    return dropped


def remove(
    mapping: RowMapping, rollout: int, side: Side, ending: Transaction | None = None
) -> tuple[str, ...]:
    """What removes the sync of one side, whether all, some or nothing of it is there.

    Parameters
    ----------
    ending: what is done together with the end of the triggers. Then the functions stay, since the other side's may call them.
    """
    first: tuple[str, ...] = ()
    if mapping.records and side == "new":
        first = (records.prune(mapping, rollout),)
        if mapping.parent is not None:
            first = (*first, records.complete(mapping, mapping.parent, rollout))
    last = ending.statements if ending is not None else drop_functions(mapping, rollout, side)
    return (*first, *drop_triggers(mapping, side), *last)


def remove_together(mapping: RowMapping, rollout: int) -> tuple[str, ...]:
    """What removes the sync of all sides, whether all, some or nothing of it is there."""
    removed = [remove(mapping, rollout, side, Transaction(statements=())) for side in sides(mapping)]
    return (*(s for one in removed for s in one), *drop_all_functions(mapping, rollout))


def drop_all_functions(mapping: RowMapping, rollout: int) -> tuple[str, ...]:
    """What removes the functions of all sides once no trigger calls them."""
    return tuple(statement for side in sides(mapping) for statement in drop_functions(mapping, rollout, side))


def trigger_prefix(mapping: RowMapping) -> str:
    """How the names of a mapping's triggers begin."""
    return trigger_of(mapping, "")


@lru_cache(maxsize=KEPT)
def expected_objects(mapping: RowMapping, rollout: int, side: Side) -> tuple[ExpectedObject, ...]:
    """What must be there while the sync of one side is installed, for `zdm.sql.sync.findings`."""
    made = _objects(mapping, rollout, side)
    return tuple(
        [ExpectedObject("function", f.name, f.label) for f in made.functions]
        + [ExpectedObject("trigger", t.name, t.label) for t in made.triggers]
    )


def state_query(mapping: RowMapping, rollout: int, side: Side) -> str:
    """As `zdm.sql.sync.state_query`, over the functions and triggers of one side."""
    made = _objects(mapping, rollout, side)
    names = _function_names(mapping, rollout, side)
    return text_of(
        sql.SQL(
            "SELECT 'function', p.proname::text, pg_catalog.obj_description(p.oid, 'pg_proc'),"
            " encode(sha256(convert_to(pg_catalog.pg_get_functiondef(p.oid), 'UTF8')), 'hex'), NULL::text"
            " FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
            " WHERE n.nspname = {schema} AND p.proname = ANY ({names}::text[])"
            " UNION ALL "
            "SELECT 'trigger', t.tgname::text, pg_catalog.obj_description(t.oid, 'pg_trigger'),"
            " encode(sha256(convert_to(pg_catalog.pg_get_triggerdef(t.oid), 'UTF8')), 'hex'), t.tgenabled::text"
            " FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = pg_catalog.to_regclass({table}) AND (starts_with(t.tgname, {triggers})"
            " OR starts_with(t.tgname, {before})) AND t.tgparentid = 0"
        ).format(
            schema=sql.Literal(SCHEMA),
            names=sql.Literal(names),
            table=sql.Literal(text_of(made.table)),
            triggers=sql.Literal(trigger_of(mapping, "")),
            before=sql.Literal(element_sync.trigger_before(mapping, "")),
        )
    )


def comparison(mapping: RowMapping) -> sql.Composed:
    """What the verification asks, in short: the pairs that disagree, and rows without the other one."""
    if mapping.parent is not None:
        return parent_conditions.comparison(mapping, mapping.parent)
    if mapping.gathers:
        return sql.SQL("SELECT count(*) FROM ({})").format(group_sync.disagreeing(mapping, 0, known=False))
    if mapping.elements is not None:
        return element_rows.comparison(mapping)
    return sql.SQL(
        "SELECT count(*) FROM (SELECT * FROM {} WHERE <range>) AS o FULL JOIN (SELECT * FROM {} WHERE <range>) AS n ON {}"
        " WHERE o IS NULL OR n IS NULL OR {}"
    ).format(
        qualified_name(mapping.old.table),
        qualified_name(mapping.new.table),
        row_conditions.paired(mapping, "o", "n"),
        row_conditions.disagree(mapping, "o", "n"),
    )


@lru_cache(maxsize=KEPT)
def _objects(mapping: RowMapping, rollout: int, side: Side) -> Objects:
    if mapping.parent is not None:
        made = parent_sync.ParentObjects
        if mapping.in_place:
            made = reference_log.ReferenceLogObjects if mapping.logged else reference_sync.ReferenceObjects
        elif mapping.records:
            made = link_record.RecordedLinks
        return made(mapping, mapping.parent, rollout, side)
    if mapping.elements is not None:
        if mapping.logged:
            if mapping.elements.one == "old":
                return element_log.ElementLogObjects(mapping, rollout, side)
            gathering = gathered_log.GroupLogObjects if mapping.gathers else gathered_log.GatheredLogObjects
            return gathering(mapping, rollout, side)
        if mapping.gathers:
            return group_sync.GroupObjects(mapping, rollout, side)
        if mapping.elements.follows:
            return gathered_sync.GatheredObjects(mapping, rollout, side)
        if mapping.elements.one == "new":
            return collapsed_sync.CollapsedObjects(mapping, rollout, side)
        kind = element_record.RecordedElements if mapping.records else element_sync.ElementObjects
        return kind(mapping, rollout, side)
    if mapping.logged:
        noting = union_log.UnionLogObjects if mapping.unites else row_log.LogObjects
        return noting(mapping, rollout, side)
    if mapping.records:
        if mapping.unites:
            return union_record.RecordedUnion(mapping, rollout, side)
        recording = join_record.RecordedColumns if mapping.joins else row_record.RecordObjects
        return recording(mapping, rollout, side)
    if mapping.unites:
        return row_union.UnionObjects(mapping, rollout, side)
    return row_generator.Generator(mapping, rollout, side)


def _function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    if mapping.parent is not None:
        if mapping.in_place:
            if mapping.logged:
                return reference_log.function_names(mapping, rollout, side)
            return reference_sync.function_names(mapping, rollout, side)
        return parent_sync.function_names(mapping, rollout, side)
    if mapping.elements is not None:
        if mapping.logged:
            if mapping.elements.one == "old":
                return element_log.function_names(mapping, rollout, side)
            return gathered_log.function_names(mapping, rollout, side)
        return element_sync.function_names(mapping, rollout, side)
    if mapping.logged:
        if mapping.unites:
            return union_log.function_names(mapping, rollout, side)
        return row_log.function_names(mapping, rollout, side)
    return [
        name_of(mapping, rollout, purpose)
        for purpose in (
            f"on_{side}",
            f"late_{side}",
            f"settle_{row_conditions.across(side)}",
            f"stale_{side}",
            f"claims_{side}",
            f"outside_{side}",
            f"number_{side}",
        )
    ]
