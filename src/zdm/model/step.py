"""A step: the smallest unit of work that is recorded, resumed and undone. Pure data; only the executor runs one."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import Field

from zdm.model.mapping import Authority
from zdm.model.names import QualifiedName, Value


class Phase(StrEnum):
    """The four phases, in order."""

    PREPARATION = "preparation"
    MIGRATION = "migration"
    SWITCHOVER = "switchover"
    CLEANUP = "cleanup"

    @property
    def number(self) -> int:
        """1 to 4, as people count them."""
        return list(Phase).index(self) + 1


class Stage(IntEnum):
    """Where in its phase a step runs. Steps of one stage keep the order of the operations in the migration file."""

    TYPES = 10  # preparation: enums and other types
    TABLES = 20  # preparation: new tables
    STRUCTURE = 30  # preparation: new columns and the marker
    SYNC = 40  # preparation: sync functions and triggers
    VIEWS = 50  # preparation: version schemas, only once the triggers stand
    BACKFILL = 60  # migration: fill what is not settled
    INDEXES = 70  # migration: indexes on the new structure, after the data
    VERIFY = 80  # migration: compare every row
    CONSTRAINTS = 90  # switchover: what the new version promises is enforced
    AUTHORITY = 100  # switchover: the new side wins from here
    TIGHTEN = 110  # cleanup: proofs that need the old side silent, without a scan under lock
    RELEASE = 115  # cleanup: foreign keys let go of the old columns, each in a transaction of its own
    APART = 117  # cleanup: the new version's writes of one table are no longer mirrored in another, whose columns go next
    CONTRACT = 120  # cleanup: the swap; the old structure goes
    FINISH = 130  # cleanup: what is left of zdm's own


class Lock(StrEnum):
    """PostgreSQL's table lock modes, as `pg_locks.mode` names them without 'Lock'."""

    NONE = "none"
    ACCESS_SHARE = "AccessShare"
    ROW_SHARE = "RowShare"
    ROW_EXCLUSIVE = "RowExclusive"
    SHARE_UPDATE_EXCLUSIVE = "ShareUpdateExclusive"
    SHARE = "Share"
    SHARE_ROW_EXCLUSIVE = "ShareRowExclusive"
    EXCLUSIVE = "Exclusive"
    ACCESS_EXCLUSIVE = "AccessExclusive"

    @property
    def sql(self) -> str:
        """The mode as LOCK TABLE spells it, for example ``ACCESS EXCLUSIVE``."""
        spelled = "".join(f" {c}" if c.isupper() else c for c in self.value)
        return spelled.strip().upper()


class TableLock(Value):
    """The strongest lock a step takes on one table, and how long it keeps it.

    hold: "brief" (catalog changes only), "scan" (as long as reading the table takes) or "rewrite".
    only: not the partitions of the table.
    """

    table: QualifiedName
    mode: Lock
    hold: Literal["brief", "scan", "rewrite"] = "brief"
    only: bool = False


class Concurrent(Value):
    """One statement that refuses to run in a transaction (CREATE INDEX CONCURRENTLY …).

    done_when: a query of one boolean; it settles an unknown outcome and makes the step repeatable.
    cleanup: run (each on its own, in order) before a repeat, to remove what an aborted run left, such as an invalid index.
    """

    kind: Literal["concurrent"] = "concurrent"
    statement: str
    done_when: str
    cleanup: tuple[str, ...] = ()
    locks: tuple[TableLock, ...] = ()


class Scan(Value):
    """One long statement under a weak lock (VALIDATE CONSTRAINT): in its own transaction, without a lock budget to stall on.

    done_when: as for `Concurrent`.
    """

    kind: Literal["scan"] = "scan"
    statement: str
    done_when: str
    locks: tuple[TableLock, ...] = ()


class PartitionedIndex(Value):
    """An index of a partitioned table: one on each partition, built CONCURRENTLY, each attached to the table's own.

    The table's own index is made first, so that a partition that comes meanwhile brings its part. Which partitions there are
    is looked up when the step runs; it goes on until the server calls the table's index valid.

    body: what follows ``ON table`` in CREATE INDEX; for a constraint, what follows its name in ADD CONSTRAINT.
    apart: the table gets no index of its own, and those of the partitions stand by themselves.
    remove: take back what was built, whether all, some or nothing of it is there.
    """

    kind: Literal["partitioned index"] = "partitioned index"
    table: QualifiedName
    name: str
    body: str
    unique: bool = False
    constraint: bool = False
    apart: bool = False
    remove: bool = False

    @property
    def locks(self) -> tuple[TableLock, ...]:
        """The strongest lock, which is taken on the table and then on one partition after the other."""
        mode = Lock.SHARE_UPDATE_EXCLUSIVE if self.apart else Lock.ACCESS_EXCLUSIVE
        return (TableLock(table=self.table, mode=mode),)


class Transaction(Value):
    """Statements in one transaction. Locks are taken first, in the order given, under the lock budget, with retries.

    The step's *finished* mark is written in the same transaction, so a lost connection at COMMIT is settled by reading it.

    first: statements that run before the locks are taken, such as DROP VIEW: an application's statement through a view locks
        the view and then the table, and whoever takes them in the other order deadlocks with it.
    parts: indexes of partitions that the statements use; those of partitions that came since they were built are built before.
    """

    kind: Literal["transaction"] = "transaction"
    statements: tuple[str, ...]
    first: tuple[str, ...] = ()
    locks: tuple[TableLock, ...] = ()
    parts: tuple[PartitionedIndex, ...] = ()


class PartitionedForeignKey(Value):
    """A foreign key of a partitioned table: added NOT VALID to one partition after the other, proven there, then on the table.

    The server takes proven keys of the partitions for its own, so the last step scans nothing. (Before PostgreSQL 18 it
    refuses NOT VALID on the table itself.)

    body: what follows the constraint's name.
    remove: take back what was added, whether all, some or nothing of it is there.
    """

    kind: Literal["partitioned foreign key"] = "partitioned foreign key"
    table: QualifiedName
    name: str
    body: str
    references: QualifiedName
    remove: bool = False

    @property
    def locks(self) -> tuple[TableLock, ...]:
        """Both tables: briefly by the statements that add the key, weakly by the scans that prove it."""
        mode = Lock.ACCESS_EXCLUSIVE if self.remove else Lock.SHARE_ROW_EXCLUSIVE
        return tuple(TableLock(table=t, mode=mode) for t in dict.fromkeys((self.table, self.references)))


class Sync(Value):
    """Install the sync functions and triggers of one table, change their authority, or remove them.

    table: the mapped table, or the id of a row mapping.
    remove: drop triggers and functions, whether or not they exist.
    side: of a row mapping: the side whose writes are mirrored, ``old``, ``new``, or the ``parent``. Empty for a table.
    on: the table of that side, which carries the triggers.
    together: the tables of all sides, with triggers that come, or go, in one transaction: none carries over what another one has not seen.
    watches: the tables of whose columns the table gets copies: each gets, or loses, a trigger too, in a transaction of its own.
    ending: of a removal: what is done in the transaction that drops the triggers, and under which locks.
    """

    kind: Literal["sync"] = "sync"
    table: QualifiedName
    authority: Authority = Authority.OLD
    remove: bool = False
    side: Literal["", "old", "new", "parent"] = ""
    on: QualifiedName | None = None
    together: tuple[QualifiedName, ...] = ()
    watches: tuple[QualifiedName, ...] = ()
    ending: Transaction | None = None


class Backfill(Value):
    """Fill every unsettled row of one table, or of one row mapping.

    over: of a row mapping: the table that is gone through.
    again: go through a table once more that was gone through before.
    """

    kind: Literal["backfill"] = "backfill"
    table: QualifiedName
    over: QualifiedName | None = None
    again: bool = False


class Verify(Value):
    """Compare every row of one table, or of one row mapping, and store what was found.

    over: of a row mapping: a table that is read.
    """

    kind: Literal["verify"] = "verify"
    table: QualifiedName
    over: QualifiedName | None = None


Action = Annotated[
    Transaction | Concurrent | Scan | PartitionedIndex | PartitionedForeignKey | Sync | Backfill | Verify,
    Field(discriminator="kind"),
]


class Step(Value):
    """One recorded unit.

    Parameters
    ----------
    id: unique in the plan and stable across runs, for example ``preparation.pgbench_accounts.columns``.
    title: what a person reads, in the imperative: ``add the new columns beside the old ones``.
    operation: the operation that asked for it, as ``2:split_column``; empty if the table's operations share it.
    undo: actions that return to before the step; each must succeed whether or not the step, or a part of it, ran
        (``IF EXISTS``). Run in the order given, when the rollout rolls back; the steps themselves are undone last first.
    naive: the rule under docs/refusals/ that the obvious statement would break, which is why it is done this way; or empty.
    turn: of the steps of one stage, those with a lower number come first.
    """

    id: str
    title: str
    phase: Phase
    stage: Stage
    action: Action
    operation: str = ""
    undo: tuple[Action, ...] = ()
    naive: str = ""
    turn: int = 0

    @property
    def locks(self) -> tuple[TableLock, ...]:
        """The table locks that the step takes."""
        action = self.action
        if isinstance(action, Sync) and action.remove and self.phase is Phase.CLEANUP:
            return ()  # only functions are dropped: the swap has taken the triggers
        return locks_of(action)

    @property
    def undo_locks(self) -> tuple[TableLock, ...]:
        """The table locks that taking it back takes, one action after the other."""
        return tuple(dict.fromkeys(lock for action in self.undo for lock in locks_of(action)))


def locks_of(action: Action) -> tuple[TableLock, ...]:
    """The table locks that an action takes."""
    if isinstance(action, Transaction | Concurrent | Scan | PartitionedIndex | PartitionedForeignKey):
        return action.locks
    if isinstance(action, Sync):
        if action.authority is Authority.NEW:
            return ()  # only functions are replaced
        # CREATE TRIGGER takes SHARE ROW EXCLUSIVE, DROP TRIGGER takes ACCESS EXCLUSIVE.
        mode = Lock.ACCESS_EXCLUSIVE if action.remove else Lock.SHARE_ROW_EXCLUSIVE
        tables = dict.fromkeys((*action.watches, *(action.together or (action.on or action.table,))))
        return tuple(TableLock(table=table, mode=mode) for table in tables)
    mode = Lock.ROW_EXCLUSIVE if isinstance(action, Backfill) else Lock.ACCESS_SHARE
    return (TableLock(table=action.over or action.table, mode=mode, hold="brief"),)
