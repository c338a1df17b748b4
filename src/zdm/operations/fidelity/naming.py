"""At cleanup, what was carried over takes the names of what went with the old columns."""

from __future__ import annotations

from collections.abc import Sequence

from zdm.model.names import qualified
from zdm.model.requests import CarryRequest
from zdm.model.step import Lock, Phase, Stage, Step, Transaction
from zdm.operations import ddl
from zdm.operations.fidelity.indexes import index_attributes
from zdm.operations.fidelity.review import (
    backed_by,
    constraint_comment,
    find_constraint,
    primary_key,
    temporary,
)
from zdm.operations.shape import TableShape


def naming_step(shape: TableShape, requests: Sequence[CarryRequest]) -> Step | None:
    """The old ones went with their columns, so what was carried takes their names. None if nothing is to be said."""
    final = qualified(shape.name.schema_, shape.final_name)
    statements: list[str] = []
    for request in requests:
        constraint = (
            backed_by(shape, request.name)
            if request.kind == "index"
            else find_constraint(shape, request.name)
        )
        key = primary_key(shape)
        if request.kind == "index" and key is not None and request.name == (key.index or key.name):
            # The swap has given the key its name already, since it cannot do without one.
            statements += constraint_comment(key, final) + index_attributes(shape, request, final)
            continue
        if constraint is None:
            statements.append(
                ddl.text(
                    "ALTER INDEX {old} RENAME TO {new}",
                    old=ddl.table(qualified(final.schema_, temporary(request.name))),
                    new=ddl.ident(request.name),
                )
            )
            statements += index_attributes(shape, request, final)
            continue
        statements.append(
            ddl.text(
                "ALTER TABLE {t} RENAME CONSTRAINT {old} TO {new}",
                t=ddl.table(final),
                old=ddl.ident(temporary(request.name)),
                new=ddl.ident(constraint.name),
            )
        )
        statements += constraint_comment(constraint, final)
        if request.kind == "index":
            statements += index_attributes(shape, request, final)
    if not statements:
        return None
    locked = any(" RENAME CONSTRAINT " in statement for statement in statements)
    return Step(
        id=f"cleanup.{shape.name}.carry.names",
        title=f"give what was carried over to the new columns of {final} its name",
        phase=Phase.CLEANUP,
        stage=Stage.FINISH,
        operation=requests[0].where,
        action=Transaction(
            statements=tuple(statements),
            locks=(ddl.lock(final, Lock.ACCESS_EXCLUSIVE if locked else Lock.SHARE_UPDATE_EXCLUSIVE),),
        ),
    )
