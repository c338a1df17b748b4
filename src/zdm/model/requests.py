"""What operations ask of the server before a plan can be made: values only, answered by `zdm.db`."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from zdm.model.names import QualifiedName, Value


class ExpressionRequest(Value):
    """Please check this SQL expression over the columns of one version of a table.

    The answer is an `Expression`, handed to `plan` under `key`, so that it can be rendered over physical columns.

    Parameters
    ----------
    table: the existing table, by its present name.
    over: whose columns the text names.
    assign_to: the type it must be assignable to, or None.
    boolean: whether it must be a condition.
    constant: whether it may name no column at all, as a default.
    volatile: whether a volatile function is acceptable.
    where: the operation that asks, as ``2:add_check``.
    """

    key: str
    table: QualifiedName
    text: str
    over: Literal["old", "new"] = "new"
    assign_to: str | None = None
    boolean: bool = False
    constant: bool = False
    volatile: bool = False
    where: str = ""


class CarriedColumn(Value):
    """One replaced column: `old` is its physical name, `new` its successor's, with the successor's type and collation."""

    old: str
    new: str
    type: str
    collation: str | None = None


class ColumnType(Value):
    """The type of a column, and its collation if that is not the type's, both as SQL."""

    type: str
    collation: str | None = None


class IndexRequest(Value):
    """Please make this new index on an empty table with these columns, and spell it.

    The answer is what follows ``ON table`` in the server's own words, so that it means the same under every search_path.

    Parameters
    ----------
    table: the table that gets it, for messages.
    columns: those that the table will have, by their physical names.
    definition: what follows ``ON table``, with names as the migration's author wrote them.
    tablespace: what `definition` says of that, since the server tells it apart from the rest.
    where: the operation that asks.
    """

    key: str
    table: QualifiedName
    columns: dict[str, ColumnType]
    definition: str
    unique: bool = False
    tablespace: str | None = None
    where: str = ""


class AfterSwap(Value):
    """What a table is called after its swap, and the names of its columns by their physical ones, where they differ."""

    table: QualifiedName
    columns: tuple[tuple[str, str], ...] = ()


class CarryRequest(Value):
    """Please rewrite this index's or constraint's definition for the successors of its columns.

    The answer is text of the server's own making, to stand behind ``CREATE INDEX name ON table`` (kind ``index``) or
    ``ADD CONSTRAINT name`` (the other kinds), without ``NOT VALID``.

    Parameters
    ----------
    name: the existing index or constraint.
    columns: every column of the table that has a successor.
    references: the table that a foreign key points at; `referenced` are its columns that have a successor.
    instead: the table that the foreign key shall point at in its place.
    in_swap: it is a constraint that only the swap can build, under its lock. It is refused where that takes too long, else
        answered under `final_key` as well, over the names that the columns have at the end of the swap.
    finals: those names, by the physical ones, where they differ; columns that go are called something else.
    made_anew: of the foreign key of a partitioned table, what it points at is called then, and its columns by their physical names:
        after the swap of that table, which makes it anew. It is answered under `after_key` as well, over those names.
    late_actions: a foreign key that sets its columns to defaults, which the successors have only from the swap on, may act by the old
        key until then; it is answered without actions, and with them under `final_key`.
    where: the operation that replaces the column, as ``1:change_type``.
    """

    key: str
    table: QualifiedName
    kind: Literal["index", "unique", "check", "foreign key", "primary key", "exclusion"]
    name: str
    columns: tuple[CarriedColumn, ...]
    references: QualifiedName | None = None
    referenced: tuple[CarriedColumn, ...] = ()
    instead: QualifiedName | None = None
    in_swap: bool = False
    finals: tuple[tuple[str, str], ...] = ()
    late_actions: bool = False
    made_anew: AfterSwap | None = None
    where: str = ""

    @property
    def final_key(self) -> str:
        return f"{self.key}/final"

    @property
    def written_key(self) -> str:
        """Under it an index is answered as it would be spelled if it was written for the successors, if that is not the same."""
        return f"{self.key}/written"

    @property
    def after_key(self) -> str:
        return f"{self.key}/after"


class ReplacedTable(Value):
    """One table with replaced columns, under its present name, and every column of it that has a successor."""

    table: QualifiedName
    columns: tuple[CarriedColumn, ...]


class FollowRequest(Value):
    """Please say which statements let this dependant follow its replaced columns. The answer is a `Follow`.

    Parameters
    ----------
    table: the table whose columns are replaced.
    kind: as `Dependent.kind` calls it, or ``trigger``.
    oid: the dependant's own, so that no name has to be resolved again.
    name: what people call it, for messages.
    replaced: every table of the migration with replaced columns; a policy's subquery may read several.
    dropped: columns of `table` that go without a successor.
    where: the operation that replaces the column, as ``1:change_type``.
    """

    key: str
    table: QualifiedName
    kind: Literal["statistics", "policy", "trigger", "publication", "generated column", "function", "rule"]
    oid: int
    name: str
    replaced: tuple[ReplacedTable, ...]
    dropped: tuple[str, ...] = ()
    where: str = ""


class Follow(Value):
    """How a dependant follows, as statements by moment. Columns of the table go by their physical names but in `finish`.

    Parameters
    ----------
    prepare / unprepare: once the new columns stand, and the way back.
    build / unbuild: once the data is there, and the way back.
    tighten: at cleanup before the swap, in a transaction that locks `on`.
    swap: in the swap's own transaction, before the old columns go.
    finish: at cleanup after the swap; the table has its final names.
    strong: whether `prepare` and `unprepare` need the strongest lock, else SHARE ROW EXCLUSIVE.
    remade: whether `swap` makes a column anew: views of ours that show it make way, and its attributes are given again.
    """

    prepare: tuple[str, ...] = ()
    unprepare: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    unbuild: tuple[str, ...] = ()
    tighten: tuple[str, ...] = ()
    swap: tuple[str, ...] = ()
    finish: tuple[str, ...] = ()
    on: QualifiedName
    strong: bool = False
    remade: bool = False


class Dependents(StrEnum):
    """What becomes of the user's views over replaced columns: the migration is refused, or cleanup makes them anew."""

    REFUSE = "refuse"
    RECREATE = "recreate"


class RecreateRequest(Value):
    """Please say how the views over replaced columns are made anew, with all that stands on them.

    Parameters
    ----------
    own: views of zdm's own, as introspection names them; they are not the user's.
    where: the operation that replaces the first column, as ``1:change_type``.
    """

    replaced: tuple[ReplacedTable, ...]
    own: tuple[str, ...] = ()
    where: str = ""


class RecreatedView(Value):
    """One view or materialized view, made beside the old one under the name `beside`.

    Parameters
    ----------
    make: statements that make it, dressed as the old one but for the rights.
    fill: a statement that computes a materialized view, and a query that tells whether that is done; None if there is
        nothing to fill.
    indexes: the same for each of its indexes.
    """

    name: QualifiedName
    beside: QualifiedName
    materialized: bool
    make: tuple[str, ...]
    fill: tuple[str, str] | None = None
    indexes: tuple[tuple[str, str], ...] = ()


class Recreation(Value):
    """How the user's views follow.

    Parameters
    ----------
    views: in the order in which they are made: those that others stand on come first.
    change: statements, in one transaction, that give the new ones the rights and the names of the old ones.
    """

    views: tuple[RecreatedView, ...] = ()
    change: tuple[str, ...] = ()


class Mention(Value):
    """A function whose body has the words for a column and its table."""

    function: str
    table: QualifiedName
    column: str


class TableMention(Value):
    """A function whose body has the word for a table. `triggers`: those of other tables that call it."""

    function: str
    table: QualifiedName
    triggers: tuple[str, ...] = ()
