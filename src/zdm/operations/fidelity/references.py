"""Foreign keys of which one side is replaced: built again beside the old one, proven, and given its name at cleanup.

Whichever side gets a successor, the new key stands beside the old one from switchover to cleanup, so both versions are
held to it. The old one goes before the swap, in a transaction of its own, since dropping a foreign key locks both tables.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.names import QualifiedName, qualified
from zdm.model.promise import Demand, Promise
from zdm.model.requests import AfterSwap, CarriedColumn, CarryRequest
from zdm.model.step import Action, Lock, PartitionedForeignKey, Phase, Stage, Step, Transaction
from zdm.model.table import Constraint, Table, TableKind
from zdm.operations import ddl
from zdm.operations.base import Context, Draft
from zdm.operations.fidelity.partitioned_keys import points_at_exchanged
from zdm.operations.fidelity.partitions import names_of_parts
from zdm.operations.fidelity.review import (
    Review,
    carried_columns,
    carry_key,
    constraint_comment,
    final_names,
    succeed_key,
    temporary,
)
from zdm.operations.params import is_partitioned
from zdm.operations.shape import TableShape

_FOREIGN_KEY = "foreign key"
_TO_DEFAULT = " SET DEFAULT"
_UNCHANGEABLE = (TableKind.FOREIGN,)
NOT_VALID = "is NOT VALID, which a key that goes from partition to partition cannot be"


def validate_first(key: Constraint) -> str:
    """What to do about a partitioned table's foreign key that is NOT VALID."""
    return f"VALIDATE CONSTRAINT {key.name} first, or add drop_constraint {key.name} to this migration."


def review_references(review: Review) -> None:
    """Request the foreign keys of other tables, and of the table itself, that point at a replaced column."""
    draft, shape = review.draft, review.shape
    for pointing in shape.table.referenced_by:
        hit = review.hit(pointing.columns)
        child = draft.existing(pointing.references) if pointing.references is not None else None
        other = draft.shapes.get(pointing.references) if pointing.references is not None else None
        if not hit or (other is not None and (pointing.name in other.gone_constraints or other.dropped)):
            continue
        what = f"the foreign key {pointing.name} of {pointing.references} points at {', '.join(pointing.columns)}"
        key = _constraint(child, pointing.name)
        if not set(hit) <= set(review.successors):
            review.refuse(
                hit[0],
                what,
                f"Add drop_constraint {pointing.name} to this migration, or drop it in an earlier one.",
                "referenced-by-foreign-key",
            )
        elif child is None or key is None or child.kind in _UNCHANGEABLE:
            kind = child.kind.value if child is not None else "table that cannot be read"
            review.refuse(
                hit[0],
                f"{what}, and {pointing.references} is a {kind}",
                f"Drop {pointing.name} in an earlier migration, and add it again after this one.",
                "referenced-by-foreign-key",
            )
        elif not child.may_alter:
            review.refuse(
                hit[0],
                f"{what}, and {child.name} belongs to {child.owner}",
                f"Connect as a member of {child.owner} as well, or have its owner drop {pointing.name} first.",
                "not-owner",
            )
        elif child.partitioned and not key.validated:
            review.refuse(
                hit[0], f"{what}, and {NOT_VALID}", validate_first(key), "referenced-by-foreign-key"
            )
        else:
            request_reference(draft, child, key, review.replaced[hit[0]])


def request_reference(draft: Draft, child: Table, key: Constraint, where: str) -> None:
    """Have the server spell the foreign key for the successors of its columns, on either side; once."""
    assert key.references is not None
    wanted = carry_key(child.name, _FOREIGN_KEY, key.name)
    if any(request.key == wanted for request in draft.carries):
        return
    draft.carries.append(
        CarryRequest(
            key=wanted,
            table=child.name,
            kind="foreign key",
            name=key.name,
            columns=_successors(draft, child.name),
            references=key.references,
            referenced=_successors(draft, key.references),
            late_actions=_acts_late(draft, child, key),
            finals=final_names(shape) if (shape := draft.following(child.name)) is not None else (),
            made_anew=_made_anew(draft, child, key),
            where=where,
        )
    )


def _made_anew(draft: Draft, child: Table, key: Constraint) -> AfterSwap | None:
    """What a partitioned table's key is made over again by the swap of what it points at, if that exchanges its primary key."""
    assert key.references is not None
    parent = draft.following(key.references)
    if parent is None or not (child.partitioned and points_at_exchanged(draft, child.name, key)):
        return None
    return AfterSwap(table=qualified(key.references.schema_, parent.final_name), columns=final_names(parent))


def _acts_late(draft: Draft, child: Table, key: Constraint) -> bool:
    """Whether the child's swap can make the key anew with its actions: before the swap of what it references, or in the same one."""
    assert key.references is not None
    parent = draft.following(key.references)
    mine = draft.following(child.name)
    if child.partitioned or mine is None or _TO_DEFAULT not in key.definition:
        return False
    if parent is None or parent.mapped_as == mine.mapped_as:
        return True
    return not parent.dropped and mine.mapped_as not in _swapped_later(draft, parent.mapped_as)


def _swapped_later(
    draft: Draft, table: QualifiedName, seen: tuple[QualifiedName, ...] = ()
) -> set[QualifiedName]:
    """The tables whose swaps come after that of this one, since its rows refer to theirs, and itself."""
    if table in seen:
        return set()
    shape = draft.shapes.get(table)
    ahead = {group.refers_to for group in shape.groups} if shape is not None else set()
    for request in draft.carries:
        child = draft.following(request.table)
        parent = draft.following(request.references) if request.references is not None else None
        if child is None or parent is None or child.mapped_as != table:
            continue
        key = _constraint(child.table, request.name)
        # What is made anew by the other table's swap is called after the columns that it has by then.
        if request.late_actions or (key is not None and points_at_exchanged(draft, child.name, key)):
            ahead.add(parent.mapped_as)
    found = {table}
    for one in ahead - {None, table}:
        assert one is not None
        found |= _swapped_later(draft, one, (*seen, table))
    return found


def swap_turn(draft: Draft, table: QualifiedName) -> int:
    """When a table is swapped, within the stage: before all that its rows refer to, where that matters."""
    return -len(_swapped_later(draft, table))


def reference_steps(phase: Phase, context: Context) -> list[Step]:
    """Build the keys anew once both sides are filled, verified and indexed; let the old ones go before the swap."""
    found: list[Step] = []
    naming: dict[QualifiedName, Step] = {}
    for request in context.draft.carries:
        if request.kind != _FOREIGN_KEY:
            continue
        assert request.references is not None
        key = _constraint(context.draft.existing(request.table), request.name)
        assert key is not None
        if phase is Phase.SWITCHOVER:
            steps = ddl.checked_constraint(
                step_id=f"switchover.{request.table}.carry.{request.name}",
                phase=phase,
                stage=Stage.CONSTRAINTS,
                operation=request.where,
                on=request.table,
                name=temporary(request.name),
                body=ddl.raw(context.carried[request.key]),
                references=request.references,
                naive="add-foreign-key-scan",
                partitioned=is_partitioned(context.draft, request.table),
            )
            found += steps if key.validated else steps[:1]
        elif phase is Phase.CLEANUP and request.final_key not in context.carried:
            # Nothing is known of a table that is only referred to.
            parent = context.draft.existing(request.references)
            partitioned = parent is None or parent.partitioned
            found.append(_release(request, key, request.references, partitioned=partitioned))
            if points_at_exchanged(context.draft, request.table, key):
                found += _prove_again(request, key, context)
            if context.draft.following(request.table) is None and is_partitioned(
                context.draft, request.table
            ):
                naming.setdefault(request.table, names_of_parts(request.table, request.table))
        elif phase is Phase.CLEANUP and key.validated:
            found.append(_prove(request, context))
    return [*found, *naming.values()]


def late_references(shape: TableShape, context: Context) -> list[CarryRequest]:
    """The table's foreign keys whose actions come with its swap, which takes the old ones away with their columns."""
    return [
        request
        for request in context.draft.carries
        if request.kind == _FOREIGN_KEY
        and request.table == shape.name
        and request.final_key in context.carried
    ]


def references_in_swap(shape: TableShape, context: Context) -> list[str]:
    """The statements that make such keys, once the columns have their final names and defaults."""
    found: list[str] = []
    for request in late_references(shape, context):
        key = _constraint(shape.table, request.name)
        assert key is not None
        found += [
            ddl.text(
                "ALTER TABLE {t} DROP CONSTRAINT {old}, ADD CONSTRAINT {c} {body} NOT VALID",
                t=ddl.table(shape.name),
                old=ddl.ident(temporary(key.name)),
                c=ddl.ident(key.name),
                body=ddl.raw(context.carried[request.final_key]),
            ),
            *constraint_comment(key, shape.name),
        ]
    return found


def released_in_swap(shape: TableShape, context: Context) -> list[str]:
    """The statements that let the old ones go, before any column on either side does."""
    return [
        ddl.text("ALTER TABLE {t} DROP CONSTRAINT {c}", t=ddl.table(shape.name), c=ddl.ident(request.name))
        for request in late_references(shape, context)
    ]


def _prove(request: CarryRequest, context: Context) -> Step:
    """The rows were proved for the key without actions; the server wants to see them again."""
    shape = context.draft.following(request.table)
    assert request.references is not None
    assert shape is not None
    final = qualified(request.table.schema_, shape.final_name)
    parent = context.draft.following(request.references)
    references = (
        qualified(request.references.schema_, parent.final_name) if parent is not None else request.references
    )
    return Step(
        id=f"cleanup.{request.table}.carry.{request.name}",
        title=f"prove the foreign key {request.name} for the rows of {final}",
        phase=Phase.CLEANUP,
        stage=Stage.FINISH,
        operation=request.where,
        action=ddl.validate_constraint(request.name, final, references),
        naive="add-foreign-key-scan",
    )


def _prove_again(request: CarryRequest, key: Constraint, context: Context) -> list[Step]:
    """The swap of the partitioned table that it points at has made the key anew; each row was proved for the one before."""
    assert request.references is not None
    shape, parent = context.draft.following(request.table), context.draft.following(request.references)
    assert parent is not None
    final = qualified(request.table.schema_, shape.final_name) if shape is not None else request.table
    references = qualified(request.references.schema_, parent.final_name)
    action: Action = ddl.validate_constraint(request.name, final, references)
    if request.made_anew is not None:
        action = PartitionedForeignKey(
            table=final, name=request.name, body=context.carried[request.after_key], references=references
        )
    elif not key.validated:
        return []
    found = [
        Step(
            id=f"cleanup.{request.table}.carry.{request.name}.prove",
            title=f"prove the foreign key {request.name} of {final}, which points at a new key",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation=request.where,
            action=action,
            naive="add-foreign-key-scan",
        )
    ]
    comment = tuple(constraint_comment(key, final)) if request.made_anew is not None else ()
    if comment:
        found.append(
            Step(
                id=f"cleanup.{request.table}.carry.{request.name}.comment",
                title=f"comment the foreign key {request.name} of {final}",
                phase=Phase.CLEANUP,
                stage=Stage.FINISH,
                operation=request.where,
                action=Transaction(statements=comment, locks=(ddl.lock(final, Lock.SHARE_UPDATE_EXCLUSIVE),)),
            )
        )
    return found


def promised_references(context: Context) -> list[Promise]:
    """The keys that what `up` makes of the rows could break, on either side; not those that nobody has proved yet."""
    found: list[Promise] = []
    for request in context.draft.carries:
        key = _constraint(context.draft.existing(request.table), request.name)
        shape = context.draft.following(request.table)
        if request.kind == _FOREIGN_KEY and key is not None and key.validated:
            found.append(
                Promise(
                    demand=Demand.FOREIGN_KEY,
                    name=request.name,
                    table=request.table,
                    part_of=shape.part_of if shape is not None else None,
                    operation=request.where,
                    references=request.references,
                )
            )
    return found


_NAMES = """
DECLARE
  one record;
  wanted text;
BEGIN
  FOR one IN
    WITH RECURSIVE keys (oid) AS (
      SELECT k.oid FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = {t}::pg_catalog.regclass AND k.conname = {c} AND k.contype = 'f'
      UNION ALL SELECT k.oid FROM keys JOIN pg_catalog.pg_constraint AS k ON k.conparentid = keys.oid
    )
    SELECT k.conrelid, k.conrelid::pg_catalog.regclass AS on, k.conname FROM keys JOIN pg_catalog.pg_constraint AS k USING (oid)
    WHERE pg_catalog.strpos(k.conname, '_zdm_') > 0
  LOOP
    wanted := pg_catalog.replace(one.conname, '_zdm_', '');
    FOR number IN 1..1000 LOOP
      EXIT WHEN NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = one.conrelid AND k.conname = wanted);
      wanted := pg_catalog.left(pg_catalog.replace(one.conname, '_zdm_', ''), 59) || number;
    END LOOP;
    EXECUTE pg_catalog.format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', one.on, one.conname, wanted);
  END LOOP;
END
"""
"""The server's own parts of a key that points at a partitioned table are called after the key, or its columns, as they were then."""


def _release(request: CarryRequest, key: Constraint, parent: QualifiedName, *, partitioned: bool) -> Step:
    """The old key goes and the new one takes its name, and its timing, which was the most patient one until here."""
    statements = succeed_key(key, request.table)
    if partitioned:
        where = {"t": sql.Literal(ddl.table(request.table).as_string(None)), "c": sql.Literal(key.name)}
        statements.append(ddl.text("DO {body}", body=sql.Literal(ddl.text(_NAMES, **where))))
    return Step(
        id=f"cleanup.{request.table}.carry.{key.name}",
        title=f"let the foreign key {key.name} of {request.table} stand on the new columns alone",
        phase=Phase.CLEANUP,
        stage=Stage.RELEASE,
        operation=request.where,
        action=Transaction(
            statements=tuple(statements), locks=ddl.locks((request.table, parent), Lock.ACCESS_EXCLUSIVE)
        ),
        naive="drop-foreign-key-locks-both",
    )


def _successors(draft: Draft, table: QualifiedName) -> tuple[CarriedColumn, ...]:
    shape = draft.following(table)
    return carried_columns(shape) if shape is not None and not shape.dropped else ()


def _constraint(table: Table | None, name: str) -> Constraint | None:
    constraints = table.constraints if table is not None else ()
    return next((c for c in constraints if c.kind == _FOREIGN_KEY and c.name == name), None)
