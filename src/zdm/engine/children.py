"""Sync triggers of what inherits from a table: one child after the other, because the server hands none down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from psycopg import errors as pg

from zdm.db.locks import LockBudget, WaitReport, run_locked
from zdm.db.partitions import Leaf, leaves
from zdm.db.session import Connection, Session, transaction
from zdm.errors import ZdmError
from zdm.model.mapping import TableMapping
from zdm.model.names import qualified
from zdm.model.step import Lock, TableLock
from zdm.sql import children, sync

MOST_LOOKS: Final = 1000
"""Looks at the children before we say that something undoes what we do."""

_DROP = """
SELECT pg_catalog.format('DROP TRIGGER IF EXISTS %%I ON %%I.%%I', t.tgname, n.nspname, c.relname)
FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace AS s ON s.oid = p.pronamespace
WHERE t.tgrelid = %s AND NOT t.tgisinternal AND s.nspname = 'zdm' AND pg_catalog.starts_with(p.proname, %s) ORDER BY t.tgname
"""


@dataclass(frozen=True, slots=True)
class Children:
    """What inherits from one mapped table, on one session.

    Parameters
    ----------
    guard: called in each transaction; raises if the lease is lost.
    """

    session: Session
    mapping: TableMapping
    rollout: int
    budget: LockBudget
    guard: Callable[[Connection], None]
    waiting: Callable[[WaitReport], None]

    def keep_in_step(self) -> int:
        """Give every child that has not all of them, as they must be, its triggers. Returns how many that were.

        A child's triggers come in one transaction, so none of its rows is settled before it is kept in step.
        """
        done: set[int] = set()
        for _ in range(MOST_LOOKS):
            with transaction(self.session, read_only=True):
                bare = self.session.execute(children.lacking(self.mapping)).fetchall()
            if not bare:
                return len(done)
            number, schema, name, *_ = bare[0]
            done.add(number)
            self._install(Leaf(number, qualified(schema, name)))
        raise ZdmError(
            f"what inherits from {self.mapping.table} does not keep its sync triggers",
            remedy="Something drops or disables them; run again when it does not.",
        )

    def _install(self, child: Leaf) -> None:
        below = "SELECT FROM pg_catalog.pg_inherits WHERE inhparent = %s"
        parent = self.session.execute(below, (child.oid,)).fetchone() is not None
        # One that is enabled otherwise, or edited, is made anew.
        again = self._drops(child)
        statements = (*again, *sync.install_on(self.mapping, self.rollout, child.name, parent=parent))
        mode = Lock.ACCESS_EXCLUSIVE if again else Lock.SHARE_ROW_EXCLUSIVE
        self._run(child, statements, mode)

    def drops(self) -> tuple[str, ...]:
        """What drops the triggers of every child."""
        return tuple(
            statement
            for child in leaves(self.session, self.mapping.oid)
            if child.oid != self.mapping.oid
            for statement in self._drops(child)
        )

    def _drops(self, child: Leaf) -> tuple[str, ...]:
        names = sync.function_names(self.mapping, self.rollout)
        return tuple(statement for (statement,) in self.session.execute(_DROP, (child.oid, names)))

    def _run(self, child: Leaf, statements: tuple[str, ...], mode: Lock) -> None:
        locks = (TableLock(table=child.name, mode=mode, only=True),)
        try:
            run_locked(self.session, statements, locks, self.budget, self.guard, self.waiting)
        except (pg.UndefinedTable, pg.UndefinedColumn):
            # Unless it went, or inherits no more, it is not ours to handle.
            if child in leaves(self.session, self.mapping.oid):
                raise
