"""The work on one table: what is replaced, why and by what; what is refused, and what the server is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from zdm.errors import Problem
from zdm.model.names import QualifiedName, fit
from zdm.model.plan import Finding, Severity
from zdm.model.requests import CarriedColumn, CarryRequest, FollowRequest, ReplacedTable
from zdm.model.table import Constraint, Index
from zdm.operations import ddl
from zdm.operations.base import Draft
from zdm.operations.shape import DraftNew, TableShape


@dataclass(slots=True)
class Review:
    """The work on one table: what is replaced, why, and by what."""

    draft: Draft
    shape: TableShape
    replaced: dict[str, str]
    problems: list[Problem] = field(default_factory=list)

    @property
    def successors(self) -> dict[str, DraftNew]:
        return {n.replaces: n for n in self.shape.all_new() if n.replaces is not None}

    def hit(self, columns: Iterable[str]) -> list[str]:
        return [c for c in columns if c in self.replaced]

    def refuse(self, column: str, what: str, remedy: str, rule: str = "hangs-on-column") -> None:
        operation = self.replaced.get(column, "")
        if self.shape.part_of is not None and rule == "hangs-on-column":
            rule = "partition-of-its-own"
            remedy = "Drop it before the rollout; make it again on the new column after cleanup."
        verb = "replaces" if column in self.successors else "removes"
        self.problems.append(
            Problem(
                f"{what}, and {operation.partition(':')[2] or operation} {verb} column {column} of {self.shape.name}",
                where=operation if ":" in operation else "",
                remedy=remedy,
                rule=rule,
            )
        )

    def request(self, kind: str, name: str, column: str) -> None:
        self.draft.carries.append(
            CarryRequest.model_validate(
                {
                    "key": carry_key(self.shape.name, kind, name),
                    "table": self.shape.name,
                    "kind": kind,
                    "name": name,
                    "columns": carried_columns(self.shape),
                    "where": self.replaced[column],
                }
            )
        )

    def follow(self, kind: str, name: str, oid: int | None, column: str, dropped: Sequence[str] = ()) -> None:
        """Have the server asked how a dependant follows; one that hangs on two tables is asked about once."""
        key = f"{kind}/{oid}"
        if any(request.key == key for request in self.draft.follows):
            return
        self.draft.follows.append(
            FollowRequest.model_validate(
                {
                    "key": key,
                    "table": self.shape.name,
                    "kind": kind,
                    "oid": oid,
                    "name": name,
                    "replaced": replaced_tables(self.draft),
                    "dropped": tuple(dropped),
                    "where": self.replaced[column],
                }
            )
        )

    def follows_or_refuse(
        self, kind: str, name: str, oid: int | None, columns: Sequence[str], remedy: str
    ) -> None:
        """What every column of has a successor follows; what stands on a column that just goes is refused by name."""
        hit = self.hit(columns)
        if set(hit) <= set(self.successors):
            self.follow(kind, name, oid, hit[0])
        else:
            self.refuse(hit[0], f"the {kind} {name} uses {', '.join(hit)}", remedy, "dependent-object")


def carried_columns(shape: TableShape) -> tuple[CarriedColumn, ...]:
    """Every column of the table that has a successor."""
    return tuple(
        CarriedColumn(old=new.replaces, new=new.physical, type=new.type, collation=new.collation)
        for new in shape.all_new()
        if new.replaces is not None
    )


def final_names(shape: TableShape) -> tuple[tuple[str, str], ...]:
    """The names at the end of the swap of what the table has by now: its own columns, and successors in the place of theirs."""
    successors = {n.replaces: n.physical for n in shape.all_new() if n.replaces is not None}
    final = {column.physical: column.name for column in shape.columns}
    there = [successors.get(column.name, column.name) for column in shape.table.columns]
    pairs = [(name, final.get(name, f"_zdm_gone_{number}")) for number, name in enumerate(there)]
    return tuple((physical, name) for physical, name in pairs if physical != name)


def replaced_tables(draft: Draft) -> tuple[ReplacedTable, ...]:
    """Every table with columns that have successors, parts with something of their own included."""
    found = [ReplacedTable(table=shape.name, columns=carried_columns(shape)) for shape in draft.carriers()]
    return tuple(table for table in found if table.columns)


def carry_key(table: QualifiedName, kind: str, name: str) -> str:
    """The key of a `CarryRequest`, and of its answer."""
    return f"{table}/{kind}/{name}"


def temporary(name: str) -> str:
    """What a carried index or constraint is called until cleanup, when the old one is gone."""
    return fit(f"_zdm_{name}")


def drops_only(review: Review, columns: Sequence[str]) -> bool:
    """Whether an index or constraint stands on nothing but columns that are dropped outright, so it is meant to go."""
    gone = {
        c
        for c, operation in review.replaced.items()
        if c in review.shape.removed or operation.endswith(":drop_column")
    }
    return bool(columns) and gone.issuperset(columns)


def goes_too(review: Review, what: str, column: str) -> None:
    review.draft.findings.append(
        Finding(
            severity=Severity.NOTE,
            text=f"cleanup drops {what} of {review.shape.name} together with column {column}",
            where=review.replaced[column],
        )
    )


def find_index(shape: TableShape, name: str) -> Index | None:
    """The table's index called `name`, or None."""
    return next((i for i in shape.table.indexes if i.name == name), None)


def find_constraint(shape: TableShape, name: str) -> Constraint | None:
    """The table's constraint called `name`, or None."""
    return next((c for c in shape.table.constraints if c.name == name), None)


def backed_by(shape: TableShape, index: str) -> Constraint | None:
    """The unique constraint that the index belongs to, or None."""
    return next(
        (c for c in shape.table.constraints if c.kind == "unique" and (c.index or c.name) == index), None
    )


def primary_key(shape: TableShape) -> Constraint | None:
    """The table's primary key, or None."""
    return next((c for c in shape.table.constraints if c.kind == "primary key"), None)


def constraint_comment(constraint: Constraint, table: QualifiedName) -> list[str]:
    """The comment of a constraint, for the one of its name that now stands on `table`."""
    if constraint.comment is None:
        return []
    return [
        ddl.text(
            "COMMENT ON CONSTRAINT {c} ON {t} IS {text}",
            c=ddl.ident(constraint.name),
            t=ddl.table(table),
            text=sql.Literal(constraint.comment),
        )
    ]


def own_timing(key: Constraint, table: QualifiedName) -> list[str]:
    """A foreign key's own timing, instead of the most patient one, which it has until cleanup."""
    if not key.definition.removesuffix(" NOT VALID").endswith(" DEFERRABLE"):
        return []
    return [
        ddl.text(
            "ALTER TABLE {t} ALTER CONSTRAINT {c} DEFERRABLE INITIALLY IMMEDIATE",
            t=ddl.table(table),
            c=ddl.ident(key.name),
        )
    ]


def succeed_key(key: Constraint, table: QualifiedName) -> list[str]:
    """The old foreign key goes, and the one that stands beside it takes its name, timing and comment."""
    return [
        ddl.text("ALTER TABLE {t} DROP CONSTRAINT {c}", t=ddl.table(table), c=ddl.ident(key.name)),
        ddl.text(
            "ALTER TABLE {t} RENAME CONSTRAINT {old} TO {c}",
            t=ddl.table(table),
            old=ddl.ident(temporary(key.name)),
            c=ddl.ident(key.name),
        ),
        *own_timing(key, table),
        *constraint_comment(key, table),
    ]
