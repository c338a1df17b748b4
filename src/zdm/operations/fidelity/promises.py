"""What is carried over is a demand on what `up` makes of the rows: when it is made, and how it is counted before."""

from __future__ import annotations

import re

from zdm.model.mapping import Comparison, TableMapping
from zdm.model.promise import Demand, Promise
from zdm.model.requests import CarriedColumn, CarryRequest
from zdm.model.step import Phase
from zdm.operations.base import Context
from zdm.operations.fidelity.parts import promised_not_null
from zdm.operations.fidelity.references import promised_references
from zdm.operations.fidelity.review import backed_by, find_constraint, find_index, primary_key
from zdm.operations.shape import TableShape

_CAST = re.compile(r"\(*\?\)*(::[a-z ]+(\(\d+(,\d+)?\))?\)*)?")
_WHOLE = re.compile(r"smallint|integer|bigint")
_NUMBER = re.compile(r"smallint|integer|bigint|numeric(\(\d+,\d+\))?")
_WORDS = re.compile(r"text|character varying(\(\d+\))?|uuid")
_TEXT = re.compile(r"text|character varying")


def promises(context: Context) -> list[Promise]:
    """What is carried over and could be broken by what `up` makes of the rows."""
    found: list[Promise] = []
    for shape in context.draft.carriers():
        for request in context.draft.carries:
            if request.table != shape.name:
                continue
            if request.kind in {"foreign key", "unique"} and not request.in_swap:
                continue
            constraint = find_constraint(shape, request.name)
            if request.in_swap:
                demand = Demand.EXCLUSION if request.kind == "exclusion" else Demand.UNIQUE
                definition = context.carried[request.key]
            elif request.kind == "index":
                if not is_unique(shape, request):
                    continue
                demand, definition = Demand.UNIQUE, context.carried[request.key]
            elif constraint is None or not constraint.validated:
                continue  # what was not proved for the old rows need not hold for the new ones
            else:
                demand, definition = Demand.CHECK, context.carried[request.key]
            found.append(
                Promise(
                    demand=demand,
                    name=request.name,
                    table=shape.name,
                    part_of=shape.part_of,
                    operation=request.where,
                    definition=definition,
                )
            )
    return found + promised_references(context) + promised_not_null(context)


def is_unique(shape: TableShape, request: CarryRequest) -> bool:
    """Whether the carried index is a unique one."""
    index = find_index(shape, request.name)
    return backed_by(shape, request.name) is not None or (index is not None and index.unique)


def carried_in(shape: TableShape, request: CarryRequest, context: Context) -> Phase:
    """When a carried index or constraint is made: before switchover only what no write of the old version can break.

    Values that a plain widening cast keeps apart stay apart in a unique index over columns. Of everything else nobody knows
    what `up` makes of a row that the old version has not written yet, and its write must not fail.
    """
    if request.kind != "index":
        return Phase.SWITCHOVER
    if not is_unique(shape, request):
        return Phase.MIGRATION
    backed, index = backed_by(shape, request.name), find_index(shape, request.name)
    if index is not None and index.primary:
        backed = primary_key(shape)
    mapping = context.mappings.get(shape.mapped_as)
    on = backed.columns if backed is not None else index.columns if index is not None else ()
    plain = backed is not None or (
        index is not None and index.definition.count("(") == 1 and " WHERE " not in index.definition
    )
    kept = mapping is not None and all(_keeps_apart(mapping, c) for c in request.columns if c.old in on)
    return Phase.MIGRATION if plain and kept else Phase.SWITCHOVER


def _keeps_apart(mapping: TableMapping, column: CarriedColumn) -> bool:
    """Whether `up` is the old column itself or a cast that cannot make two of its values equal."""
    new = next((new for group in mapping.groups for new in group.new if new.name == column.new), None)
    old = next((old for group in mapping.groups for old in group.old if old.name == column.old), None)
    group = next((g for g in mapping.groups if new in g.new), None) if new is not None else None
    if group is not None and (group.pairs is not None or group.lookup is not None):
        # Different rows have different keys in either version.
        return True
    if new is None or old is None or new.up is None or new.up.columns != (old.name,):
        return False
    if not _CAST.fullmatch("".join(part if isinstance(part, str) else "?" for part in new.up.parts)):
        return False
    if _WHOLE.fullmatch(old.type):
        # A number that does not fit raises, and is recorded; none is rounded.
        return _NUMBER.fullmatch(new.type) is not None or _TEXT.fullmatch(new.type) is not None
    # A cast to varchar(n) cuts; and under some collations different texts are equal.
    same = new.comparison is Comparison.NATIVE
    return bool(_WORDS.fullmatch(old.type) and _TEXT.fullmatch(new.type) and same)
