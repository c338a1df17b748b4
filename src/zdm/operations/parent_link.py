"""A table of links between rows and the rows of a shared table that they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, fit
from zdm.model.row_mapping import SideKind
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.base import Draft
from zdm.operations.create_table import CreateTable, Privilege, TableColumn
from zdm.operations.params import Name, TableName
from zdm.operations.rows import DraftSide
from zdm.operations.shape import TableShape
from zdm.operations.shared_parent import Made
from zdm.operations.target import loose_key


class LinkTable(Value):
    """The table that says which parent a row has: it is made, with foreign keys to both that cascade."""

    table: TableName = Field(description="its name")
    source: dict[Name, Name] = Field(
        min_length=1, description="its columns that name the row, and the row's key columns that they equal"
    )
    parent: dict[Name, Name] = Field(
        min_length=1, description="its columns that name the parent, and the parent's primary key columns"
    )
    columns: tuple[TableColumn, ...] = Field(default=(), description="columns of its own")
    indexes: tuple[tuple[Name, ...], ...] = Field(
        default=(), description="columns of further indexes; those that name the parent have one"
    )
    comment: str | None = Field(default=None, description="its comment")
    grants: dict[Name, tuple[Privilege, ...]] = Field(
        default_factory=dict, description="privileges by role; PUBLIC is the role of everybody"
    )

    def check(self, shape: TableShape, held: Sequence[str], problems: list[Problem]) -> None:
        """Append what stands in the way of telling rows of the table apart by what the links hold of them."""
        wanted = tuple(self.source.values())
        problems.extend(loose_key(shape.table, wanted))
        problems.extend(
            Problem(f"column {name} is both normalised and part of the key")
            for name in wanted
            if name in held
        )

    def make(
        self, draft: Draft, shape: TableShape, parent: DraftSide, label: str, problems: list[Problem]
    ) -> tuple[DraftSide, Made] | None:
        """The table; what stands in the way is appended."""
        theirs = {name: (type_, collation) for name, type_, collation in parent.readable}
        own = {c.name: (c.type, c.collation) for c in shape.table.columns}
        keys = [
            TableColumn(name=name, type=types[source][0], not_null=True, collation=types[source][1])
            for wanted, types in ((self.source, own), (self.parent, theirs))
            for name, source in wanted.items()
            if source in types
        ]
        problems.extend(
            Problem(
                f"column {c.name} of {self.table} is NOT NULL without a default: rows made of the old version's values have none for it",
                remedy="Give it a default.",
            )
            for c in self.columns
            if c.not_null and c.default is None and c.identity is None and c.generated is None
        )
        table = CreateTable(
            name=self.table,
            columns=(*keys, *self.columns),
            primary_key=(*self.source, *self.parent),
            comment=self.comment,
            grants=self.grants,
        )
        problems += table.apply(draft, f"{label}/link")
        if problems:
            return None
        # What a parent's rename and its end look for, from the first moment.
        indexes = (tuple(self.parent), *(i for i in self.indexes if i != tuple(self.parent)))
        side = DraftSide(
            table=draft.name(self.table),
            oid=0,
            kind=SideKind.ROWS,
            key=list(self.source),
            columns=[],
            readable=[(c.name, draft.type(c.type), c.collation) for c in table.columns],
            created=True,
        )
        return side, Made(f"{label}/link", table, indexes)

    def steps(
        self, phase: Phase, link: QualifiedName, source: QualifiedName, parent: QualifiedName, label: str
    ) -> list[Step]:
        """The foreign keys to both, besides the steps that make the table."""
        if phase is Phase.PREPARATION:
            # From the first moment: only the server sees a link that was made since the snapshot in which its parent is removed.
            return self._foreign_key(phase, link, self.parent, parent, label)
        if phase is Phase.MIGRATION:
            return self._foreign_key(phase, link, self.source, source, label)
        return []

    @staticmethod
    def key_name(link: QualifiedName, columns: Iterable[str]) -> str:
        """What the foreign key of these columns of the links is called."""
        return fit(f"{link.name}_{'_'.join(columns)}_fkey")

    def _foreign_key(
        self,
        phase: Phase,
        link: QualifiedName,
        columns: dict[str, str],
        references: QualifiedName,
        label: str,
    ) -> list[Step]:
        name = self.key_name(link, columns)
        body = sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE CASCADE").format(
            ddl.idents(columns), ddl.table(references), ddl.idents(columns.values())
        )
        return ddl.checked_constraint(
            step_id=f"{phase.value}.{link}.add_foreign_key.{name}",
            phase=phase,
            stage=Stage.TABLES if phase is Phase.PREPARATION else Stage.INDEXES,
            operation=label,
            on=link,
            name=name,
            body=body,
            references=references,
            naive="create-table-with-foreign-key",
        )
