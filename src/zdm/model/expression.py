"""A checked SQL expression over the columns of one row.

The server itself parses, type-checks and deparses the user's text (see `zdm.db.expressions`); what is kept is the
server's own text, cut at each column reference. So the same expression can be rendered over a table's columns, over
``NEW`` of a trigger, or over an alias, without ever searching and replacing names in SQL.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from psycopg import sql

from zdm.model.names import Value


class Volatility(StrEnum):
    """The worst volatility of any function in the expression, in `pg_proc.provolatile`'s words."""

    IMMUTABLE = "immutable"
    STABLE = "stable"
    VOLATILE = "volatile"


class ColumnRef(Value):
    """A reference to a *physical* column of the table (its name in pg_attribute once preparation has run).

    Parameters
    ----------
    own: of an expression over two rows: it is a column of the row that gets the value, and not of the one that it follows from.
    """

    column: str
    own: bool = False


class Expression(Value):
    """One expression, as the server understands it.

    Parameters
    ----------
    source: the text the user wrote, for people.
    parts: the server's text, all names schema-qualified, cut at each column reference.
    type: the expression's type as `format_type` writes it.
    volatility: volatile ones are refused where rows are mapped; stable ones are evaluated under pinned settings.
    """

    source: str
    parts: tuple[str | ColumnRef, ...]
    type: str
    volatility: Volatility = Volatility.IMMUTABLE

    @property
    def columns(self) -> tuple[str, ...]:
        """The physical columns that the expression reads, each once, in order of appearance; those of its own row are `own`."""
        return tuple(
            dict.fromkeys(part.column for part in self.parts if isinstance(part, ColumnRef) and not part.own)
        )

    @property
    def own(self) -> tuple[str, ...]:
        """The columns that it reads of the row that gets the value."""
        return tuple(
            dict.fromkeys(part.column for part in self.parts if isinstance(part, ColumnRef) and part.own)
        )

    def render(
        self, column: Callable[[str], sql.Composable], own: Callable[[str], sql.Composable] | None = None
    ) -> sql.Composed:
        """Compose the expression, each column reference being what `column(physical name)` returns, or `own` for one of its own row."""

        def mentioned(part: ColumnRef) -> sql.Composable:
            if not part.own:
                return column(part.column)
            assert own is not None, (
                f"{self.source!r} reads {part.column} of its own row, which is not at hand"
            )
            return own(part.column)

        pieces: list[sql.Composable] = [
            # The text was deparsed by the server from its own parse tree; it is SQL by construction.
            sql.SQL(part) if isinstance(part, str) else mentioned(part)
            for part in self.parts
        ]
        return sql.SQL("({})").format(sql.Composed(pieces))
