"""What the swap does about keys: the successor's primary key, and the sequences that number the rows.

Everything is in the swap's transaction, so nobody ever sees the table without its key or its numbering, and the numbers
go on where they were.
"""

from __future__ import annotations

from psycopg import sql

from zdm.engine.table_steps import table, text
from zdm.model.names import fit, qualified
from zdm.operations import fidelity
from zdm.operations.fidelity import primary_key, temporary
from zdm.operations.shape import DraftNew, TableShape
from zdm.sql.templates import dollar_quoted


def before_columns_go(shape: TableShape) -> list[str]:
    """What must happen while the old columns are there: their sequences go over, or are remembered."""
    found: list[str] = []
    t = sql.Literal(table(shape.name).as_string(None))
    for number, (new, old) in enumerate(_succeeded(shape)):
        if shape.identity(new):
            found.append(
                dollar_quoted(
                    "swap_identity_before",
                    table=t,
                    column=sql.Literal(old),
                    memory=sql.Literal(_memory(number)),
                    aside=sql.Literal(fit(f"_zdm_{shape.table.oid}_{old}")),
                ).as_string(None)
            )
        elif not shape.paired(old) and any(
            d.kind == "sequence" and old in d.columns for d in shape.table.dependents
        ):
            found.append(
                dollar_quoted(
                    "swap_sequence", table=t, old=sql.Literal(old), new=sql.Literal(new.physical)
                ).as_string(None)
            )
    exchanged = fidelity.exchanged_key(shape)
    if exchanged is not None:
        index = qualified(shape.name.schema_, exchanged.index or exchanged.name)
        found.append(
            dollar_quoted(
                "swap_key_before",
                key=sql.Literal(table(index).as_string(None)),
                memory=sql.Literal(_key_memory(shape)),
            ).as_string(None)
        )
    return found


def after_columns_stand(shape: TableShape) -> list[str]:
    """What follows once the successors have their final names and cannot be NULL: primary key and identity."""
    found: list[str] = []
    key = primary_key(shape)
    replaced = shape.replaced()
    kept = key is not None and key.name not in shape.gone_constraints and not fidelity.only_in_swap(key)
    exchanged = fidelity.exchanged_key(shape)
    if exchanged is not None:
        index = qualified(shape.name.schema_, fidelity.stands_in(exchanged))
        found.append(
            dollar_quoted(
                "swap_key_after",
                table=sql.Literal(table(shape.name).as_string(None)),
                stands_in=sql.Literal(table(index).as_string(None)),
                memory=sql.Literal(_key_memory(shape)),
                called=sql.Literal(str(shape.name)),
            ).as_string(None)
        )
    elif key is not None and kept and any(c in replaced for c in key.columns):
        found.append(
            text(
                "ALTER TABLE {t} ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {index}",
                t=table(shape.name),
                name=sql.Identifier(key.name),
                index=sql.Identifier(temporary(key.index or key.name)),
            )
        )
    t = sql.Literal(table(shape.name).as_string(None))
    for number, (new, _) in enumerate(_succeeded(shape)):
        if shape.identity(new):
            found.append(
                dollar_quoted(
                    "swap_identity_after",
                    table=t,
                    column=sql.Literal(new.final),
                    memory=sql.Literal(_memory(number)),
                ).as_string(None)
            )
    return found


def _succeeded(shape: TableShape) -> list[tuple[DraftNew, str]]:
    return [(new, new.replaces) for new in shape.all_new() if new.replaces is not None]


def _key_memory(shape: TableShape) -> str:
    return f"zdm.key_{shape.table.oid}"


def _memory(number: int) -> str:
    return f"zdm.identity_{number}"
