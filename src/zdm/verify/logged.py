"""What is wrong with rows of which something waits in a log: they are brought to agree first, and compared then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from zdm.model.mapping import TableMapping
from zdm.model.row_mapping import RowMapping
from zdm.sql import row_log
from zdm.sql.identifiers import any_of
from zdm.sql.log_objects import CHANGES, keyed, of_mapping
from zdm.sql.row_objects import key_text
from zdm.sql.rows import Kind
from zdm.verify.settled import settled
from zdm.verify.statements import ROW, Statements

Key = tuple[RowMapping, tuple[str, ...]]
"""A row, by its key as the log of a mapping has it."""


@dataclass(frozen=True, slots=True)
class TableLog:
    """The row mappings on a table's own rows that are synced by log.

    Parameters
    ----------
    carry_over: brings to agree what waits at the moment.
    """

    mappings: Sequence[RowMapping]
    rollout: int
    carry_over: Callable[[], None] = lambda: None

    @property
    def waits(self) -> sql.Composable:
        """A condition over a row, as `Statements` calls it: something of it is noted."""
        return any_of(
            row_log.noted(rows, self.rollout, rows.old, ROW, failed=False) for rows in self.mappings
        )

    def waiting(self, conn: psycopg.Connection[Any], mapping: TableMapping) -> list[Key]:
        """Those of which something waits, in the snapshot of the caller; where all may be concerned, those with which anything is wrong."""
        found: dict[tuple[int, tuple[str, ...]], Key] = {}
        for rows in self.mappings:
            noted = sql.SQL("SELECT key FROM {} AS zdm_c WHERE {} AND NOT failed").format(
                CHANGES, of_mapping(rows, self.rollout)
            )
            keys = [key for (key,) in conn.execute(noted).fetchall()]
            if None in keys:
                wrong = Statements(mapping).wrong_key(key_text(rows.old, ROW))
                keys += [key for (key,) in conn.execute(wrong).fetchall()]
            for key in keys:
                if key is not None:
                    found[rows.number, tuple(key)] = (rows, tuple(key))
        return list(found.values())

    def wrong(self, conn: psycopg.Connection[Any], mapping: TableMapping, key: Key) -> list[Kind]:
        """What is wrong with a row once it is brought to agree."""
        rows, values = key
        text = sql.SQL("({}::pg_catalog.text[])").format(sql.Literal(list(values))).as_string(None)
        statements = Statements(mapping)
        query = statements.details(keyed(rows.old, ROW, text))
        return settled(
            conn,
            rows,
            self.rollout,
            values,
            partial(_found, conn, query, [mismatch.kind for mismatch in statements.kinds]),
            unknown=[Kind.STALE_NEW],
        )


def _found(conn: psycopg.Connection[Any], query: sql.Composed, kinds: Sequence[Kind]) -> list[Kind]:
    row = conn.execute(query).fetchone()
    assert row is not None
    return [kind for kind, count in zip(kinds, row, strict=True) if count]
