"""Indexes of the replaced column are built anew on its successor, after the data, and take the old names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql

from zdm.model.names import QualifiedName, qualified
from zdm.model.plan import Finding, Severity
from zdm.model.requests import CarryRequest
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.model.table import Index
from zdm.operations import ddl
from zdm.operations.base import Draft
from zdm.operations.fidelity.promises import is_unique
from zdm.operations.fidelity.review import Review, backed_by, drops_only, find_index, goes_too, temporary
from zdm.operations.shape import TableShape


def review_indexes(review: Review) -> None:
    """Request the indexes that follow a replaced column, and refuse the rest by name."""
    for index in review.shape.table.indexes:
        hit = review.hit(index.columns)
        if (
            not hit
            or index.constraint is not None
            or index.primary
            or index.name in review.shape.gone_indexes
        ):
            continue
        if not index.valid:
            review.refuse(
                hit[0], f"the index {index.name} is invalid", f"DROP INDEX CONCURRENTLY {index.name} first."
            )
        elif drops_only(review, index.columns):
            goes_too(review, f"the index {index.name}", hit[0])
        elif set(hit) <= set(review.successors):
            review.request("index", index.name, hit[0])
        else:
            review.refuse(
                hit[0],
                f"the index {index.name} stands on {', '.join(index.columns)}",
                f"Add drop_index {index.name} to this migration, and create_index for the new columns.",
            )


def index_steps(shape: TableShape, request: CarryRequest, body: str, phase: Phase) -> list[Step]:
    """Build the carried index under its temporary name, and make it a unique constraint if the old one is one."""
    backed = backed_by(shape, request.name)
    name = qualified(shape.name.schema_, temporary(request.name))
    stage = Stage.INDEXES if phase is Phase.MIGRATION else Stage.CONSTRAINTS
    base = f"{phase.value}.{shape.name}.carry.{request.name}"
    partitioned = shape.table.partitioned
    if partitioned and backed is not None:
        return [
            ddl.partitioned_unique(
                step_id=base,
                phase=phase,
                stage=stage,
                operation=request.where,
                on=shape.name,
                name=name.name,
                body=body,
            )
        ]
    steps = [
        Step(
            id=base,
            title=f"build the index {request.name} of {shape.name} on the new column",
            phase=phase,
            stage=stage,
            operation=request.where,
            action=ddl.create_index(
                name,
                shape.name,
                ddl.raw(body),
                unique=is_unique(shape, request),
                partitioned=partitioned,
            ),
            undo=(ddl.drop_index(name, shape.name, partitioned=partitioned),),
            naive="create-index-blocks-writes",
        )
    ]
    if backed is not None:
        steps.append(
            Step(
                id=f"{base}.constraint",
                title=f"make it a unique constraint of {shape.name}",
                phase=phase,
                stage=stage,
                operation=request.where,
                action=ddl.alter(
                    shape.name,
                    "ADD CONSTRAINT {name} UNIQUE USING INDEX {name}",
                    name=ddl.ident(name.name),
                ),
                undo=(ddl.drop_constraint(name.name, shape.name),),
                naive="add-unique-builds-index",
            )
        )
    return steps


def between_backfills(
    steps: Sequence[Step], shape: TableShape, request: CarryRequest, depth: int
) -> list[Step]:
    """Let the index of a key that each version has a value of its own for be built as soon as its table is filled.

    Built CONCURRENTLY, it waits for every snapshot that shows a row without its new key, so that the rows which refer to this
    table's can be filled then. Other indexes are built as always.
    """
    index = find_index(shape, request.name)
    if index is None or not index.unique or not all(map(shape.paired, index.columns)):
        return list(steps)
    return [
        step.model_copy(update={"stage": Stage.BACKFILL, "turn": ddl.filling(depth) + 1})
        if step.phase is Phase.MIGRATION
        else step
        for step in steps
    ]


def kept_casts(draft: Draft, carried: Mapping[str, str]) -> list[Finding]:
    """What the plan says of indexes whose constants have the old types, so that the new version's conditions do not meet them."""
    return [
        Finding(
            severity=Severity.WARNING,
            text=f"the index {request.name} of {request.table} is carried over as {carried[request.key]}; written for the new type it would be "
            f"{carried[request.written_key]}, and conditions of the new version that say no more than that do not use it",
            where=request.where,
            rule="index-keeps-casts",
        )
        for request in draft.carries
        if request.written_key in carried
    ]


def index_attributes(shape: TableShape, request: CarryRequest, final: QualifiedName) -> list[str]:
    """What an index has that is not in its definition, given to the one that takes its name: after the renames."""
    index = find_index(shape, request.name)
    return attributes_of(index, final) if index is not None else []


def attributes_of(index: Index, final: QualifiedName) -> list[str]:
    """The same for an index of that name on the table `final`."""
    name = ddl.table(qualified(final.schema_, index.name))
    found = [
        ddl.text(
            "ALTER INDEX {i} ALTER COLUMN {n} SET STATISTICS {target}",
            i=name,
            n=sql.Literal(number),
            target=sql.Literal(target),
        )
        for number, target in index.statistics
    ]
    if index.comment is not None:
        found.append(ddl.text("COMMENT ON INDEX {i} IS {text}", i=name, text=sql.Literal(index.comment)))
    if index.clustered:
        found.append(ddl.text("ALTER TABLE {t} CLUSTER ON {i}", t=ddl.table(final), i=ddl.ident(index.name)))
    return found


_RENAME_INDEX_COLUMNS = """
DECLARE one record;
BEGIN
  FOR one IN
    SELECT c.oid::pg_catalog.regclass AS index, m.physical, m.final
    FROM (VALUES {pairs}) AS m (physical, final)
    CROSS JOIN pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = m.physical
    WHERE (i.indrelid = {t}::pg_catalog.regclass OR i.indisprimary
        AND i.indrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree({t}::pg_catalog.regclass) AS p))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute b WHERE b.attrelid = c.oid AND b.attname = m.final)
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s RENAME COLUMN %I TO %I', one.index, one.physical, one.final);
  END LOOP;
END
"""


def index_column_steps(shape: TableShape) -> list[Step]:
    """An index keeps its own names of its columns, and the server does not change them with the table's."""
    pairs = [(new.physical, new.final) for new in shape.all_new() if new.physical != new.final]
    if not pairs:
        return []
    final = qualified(shape.name.schema_, shape.final_name)
    body = ddl.text(
        _RENAME_INDEX_COLUMNS,
        pairs=sql.SQL(", ").join(
            sql.SQL("({}, {})").format(sql.Literal(old), sql.Literal(new)) for old, new in pairs
        ),
        t=sql.Literal(ddl.table(final).as_string(None)),
    )
    return [
        Step(
            id=f"cleanup.{shape.name}.carry.index_columns",
            title=f"let the indexes of {final} call their columns by their final names",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation="",
            action=Transaction(
                statements=(ddl.text("DO {body}", body=sql.Literal(body)),), locks=(ddl.lock(final),)
            ),
        )
    ]
