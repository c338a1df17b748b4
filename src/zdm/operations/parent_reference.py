"""Columns of a table's new version that refer to a row of a shared table."""

from __future__ import annotations

from typing import Any, Literal

from psycopg import sql
from pydantic import ConfigDict, Field, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, fit, qualified
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.add_foreign_key import ForeignKey, Target
from zdm.operations.base import Draft
from zdm.operations.params import Name, check_free, check_new_column
from zdm.operations.rows import DraftSide
from zdm.operations.shape import DraftNew, ShapeColumn, TableShape

OnDelete = Literal["no action", "restrict", "cascade", "set null"]
OnUpdate = Literal["no action", "restrict", "cascade"]


def _columns_alone(schema: dict[str, Any]) -> None:
    """The columns may stand in the place of the whole."""
    whole = dict(schema)
    schema.clear()
    pairs = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}
    schema.update(description=whole.pop("description", ""), anyOf=[whole, pairs])


class ReferenceColumns(Value):
    """The columns that say which parent a row has; their pairs alone stand for the rest as it is by default."""

    model_config = ConfigDict(json_schema_extra=_columns_alone)

    columns: dict[Name, Name] = Field(
        min_length=1,
        description="each column that the table gets, and the parent's primary key column that it equals",
    )
    not_null: bool = Field(default=False, description="every row of the new version has a parent")
    index: bool = Field(
        default=True,
        description="make an index on them, by which a parent's rows are found when it changes or goes",
    )
    on_delete: OnDelete = Field(
        default="no action", description="what the foreign key does when a parent goes"
    )
    on_update: OnUpdate = Field(
        default="no action", description="what the foreign key does when a parent's primary key changes"
    )

    @model_validator(mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if isinstance(value, dict) and value and not isinstance(value.get("columns"), dict):
            named = cls.model_fields.keys() - {"columns"}
            mixed = sorted(named & value.keys())
            if mixed:
                raise ValueError(f"beside {', '.join(mixed)} the columns are named in `columns`")
            return {"columns": value}
        return value

    def check_logged(self, shape: TableShape, parent: str, *, remove: bool, problems: list[Problem]) -> None:
        """Say what cannot wait for a reconciler, and that it needs a key to find rows by.

        Parameters
        ----------
        remove: parents that no row has any more are to go.
        """
        if not shape.table.key:
            problems.append(
                Problem(
                    f"{shape.name} has no primary key, by which `sync: logged` finds the rows that were written",
                    remedy="Add one first, or use `sync: immediate`.",
                    rule="no-key",
                )
            )
        does = {"cascade": "deletes", "set null": "writes"}
        if self.on_delete in does or self.on_update == "cascade":
            problems.append(
                Problem(
                    f"the foreign key to {parent} {does.get(self.on_delete, 'writes')} rows when a row there does: with `sync: logged` they may "
                    "say what the old version has changed already, so that the wrong rows would go",
                    remedy="Leave it NO ACTION until cleanup, and make another one in a later migration; or use `sync: immediate`.",
                    rule="logged-sync",
                )
            )
        if self.not_null:
            problems.append(
                Problem(
                    f"{', '.join(self.columns)} cannot be NOT NULL before the end: with `sync: logged` a row that the old version inserts refers to "
                    f"no row of {parent} until it is reconciled",
                    remedy="Leave out `not_null`, and use set_not_null in a later migration; or use `sync: immediate`.",
                    rule="logged-sync",
                )
            )
        if remove:
            problems.append(
                Problem(
                    f"rows of {parent} that nobody refers to may be wanted by what is noted and not reconciled yet, so that `unused: remove` "
                    "would take away what the new version has written to them",
                    remedy="Leave it out, and remove what nobody uses after cleanup; or use `sync: immediate`.",
                    rule="logged-sync",
                )
            )

    def add(
        self,
        draft: Draft,
        shape: TableShape,
        parent: DraftSide,
        at: int,
        taking: list[str],
        problems: list[Problem],
    ) -> list[DraftNew]:
        """Add the columns to the new version where those stood whose place they take; what stands in the way is appended.

        Parameters
        ----------
        taking: the names of columns that go.
        """
        types = {name: (type_, collation) for name, type_, collation in parent.readable}
        problems.extend(
            Problem(f"there is no column {name} in {parent.table}", rule="unknown-column")
            for name in self.columns.values()
            if name not in types
        )
        for name in self.columns:
            check_new_column(shape, name, problems, instead_of=taking)
        if self.not_null and self.on_delete == "set null":
            problems.append(
                Problem(
                    f"{', '.join(self.columns)} cannot be NULL (`not_null`), and would become so when a row of {parent.table} goes",
                    remedy="Give another `on_delete`, or leave out `not_null`.",
                )
            )
        check_free(draft, shape, self.key_name(shape), "foreign key", problems, shape.name.schema_)
        if self.index:
            check_free(draft, shape, self.index_name(shape.name), "index", problems, shape.name.schema_)
        if problems:
            return []
        made: list[DraftNew] = []
        for offset, (name, theirs) in enumerate(self.columns.items()):
            type_, collation = types[theirs]
            new = DraftNew(
                physical=shape.physical_name(name),
                final=name,
                type=type_,
                not_null=self.not_null,
                collation=collation,
            )
            made.append(new)
            shape.columns.insert(
                at + offset, ShapeColumn(new.final, new.physical, new.type, new.not_null, None, fresh=True)
            )
        return made

    def index_name(self, table: QualifiedName) -> str:
        """What the index is called."""
        return fit(f"{table.name}_{'_'.join(self.columns)}_idx")

    def key_name(self, shape: TableShape) -> str:
        """What the foreign key is called."""
        return fit(f"{shape.name.name}_{'_'.join(self.columns)}_fkey")

    def steps(
        self, phase: Phase, shape: TableShape, news: list[DraftNew], parent: QualifiedName, label: str
    ) -> list[Step]:
        """The index and the foreign key: before any row has a parent, so that neither reads more than NULLs.

        From the first moment, since the server alone sees who refers to a parent that goes, and whoever renames one must find its rows.
        """
        if phase is not Phase.PREPARATION:
            return []
        physical = [new.physical for new in news]
        steps: list[Step] = []
        if self.index:
            name = qualified(shape.name.schema_, self.index_name(shape.name))
            tail = sql.SQL("USING btree ({})").format(ddl.idents(physical))
            steps.append(
                Step(
                    id=f"preparation.{shape.name}.create_index.{name.name}",
                    title=f"build the index {name.name} on what will refer to {parent}",
                    phase=phase,
                    stage=Stage.SYNC,
                    operation=label,
                    action=ddl.create_index(name, shape.name, tail),
                    undo=(ddl.drop_index(name, shape.name),),
                    naive="create-index-blocks-writes",
                )
            )
        key = ForeignKey(
            columns=tuple(self.columns),
            references=Target(table=parent.name, columns=tuple(self.columns.values())),
            on_delete=self.on_delete,
            on_update=self.on_update,
        )
        name_of_key = self.key_name(shape)
        steps += ddl.checked_constraint(
            step_id=f"preparation.{shape.name}.add_foreign_key.{name_of_key}",
            phase=phase,
            stage=Stage.SYNC,
            operation=label,
            on=shape.name,
            name=name_of_key,
            body=key.body(physical, parent, list(self.columns.values())),
            references=parent,
            naive="add-foreign-key-scan",
        )
        return steps
