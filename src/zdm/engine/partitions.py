"""Indexes and foreign keys of partitioned tables: partition by partition, because the server has no way to do it at once.

CREATE INDEX CONCURRENTLY and UNIQUE USING INDEX are refused on a partitioned table, and so is NOT VALID for a foreign key
before PostgreSQL 18. Everything here looks up what there is, does the next missing thing, and looks again: partitions come
and go while it runs, and a process that died is continued by the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

from psycopg import errors as pg
from psycopg import sql

from zdm.db.locks import LockBudget, WaitReport, run_concurrently, run_locked, run_scan
from zdm.db.partitions import Leaf, leaves
from zdm.db.session import Connection, Session
from zdm.errors import Drift, ZdmError
from zdm.model.names import MAX_IDENTIFIER_BYTES, QualifiedName, fit, qualified
from zdm.model.step import Lock, PartitionedForeignKey, PartitionedIndex, TableLock
from zdm.operations import ddl

MOST_LOOKS: Final = 1000
"""Looks at the table before we say that something undoes what we do."""

TEMPORARY: Final = "_zdm_"

_CHILDREN: Final[LiteralString] = """
SELECT c.oid::int8, n.nspname, c.relname, c.relkind = 'p', i.nspname, i.relname
FROM pg_catalog.pg_inherits AS h
JOIN pg_catalog.pg_class AS c ON c.oid = h.inhrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
  SELECT s.nspname, x.relname FROM pg_catalog.pg_inherits AS a JOIN pg_catalog.pg_index AS p ON p.indexrelid = a.inhrelid
  JOIN pg_catalog.pg_class AS x ON x.oid = p.indexrelid JOIN pg_catalog.pg_namespace AS s ON s.oid = x.relnamespace
  WHERE a.inhparent = %s AND p.indrelid = c.oid) AS i ON true
WHERE h.inhparent = %s AND NOT h.inhdetachpending AND c.relkind IN ('r', 'p')
ORDER BY c.oid
"""

_INDEX: Final[LiteralString] = """
SELECT c.oid::int8, i.indisvalid, pg_catalog.pg_get_indexdef(c.oid),
  pg_catalog.format(' INDEX %%I ON ONLY %%I.%%I ', c.relname, tn.nspname, t.relname),
  coalesce(k.condeferrable, false), coalesce(k.condeferred, false)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conindid = c.oid AND k.contype = 'u' AND k.conrelid = t.oid
WHERE n.nspname = %s AND c.relname = %s
"""

_TABLE: Final[LiteralString] = """
SELECT c.oid::int8 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""

_KEY: Final[LiteralString] = """
SELECT k.convalidated FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid = %s AND k.conname = %s AND k.contype = 'f'
"""


class _Index(NamedTuple):
    """An index as it stands. `tail`: what the server says behind ``ON table``; `timing`: of the constraint that it backs."""

    oid: int
    valid: bool
    tail: str
    timing: str


class _Child(NamedTuple):
    """A partition, and what it has attached to the index that was asked about."""

    oid: int
    name: QualifiedName
    partitioned: bool
    attached: QualifiedName | None


@dataclass(slots=True)
class Partitions:
    """Does the two actions on one session.

    Parameters
    ----------
    guard: called in each transaction that is not the last; raises if the lease is lost.
    """

    session: Session
    budget: LockBudget
    guard: Callable[[Connection], None]
    waiting: Callable[[WaitReport], None]

    # -- indexes ------------------------------------------------------------------------------------------------------

    def build_index(self, action: PartitionedIndex, mark: Callable[[Connection], None]) -> None:
        """Build the index, or what is missing of it, and `mark` it done in the last transaction.

        Raises
        ------
        psycopg.Error: a partition's part could not be built, for example because its rows are not unique.
        """
        name = qualified(action.table.schema_, action.name)
        for _ in range(MOST_LOOKS):
            if action.apart:
                if self._apart(action):
                    continue
                run_locked(self.session, (), (), self.budget, mark, self.waiting)
                return
            found = self._index(name)
            if found is None:
                self._own(action, action.table, name)
                continue
            if found.valid:
                run_locked(self.session, (), (), self.budget, mark, self.waiting)
                return
            table = self._oid(action.table)
            before = self._tree(table)
            try:
                self._below(action, table, name, found)
            except pg.UndefinedTable:
                # Unless it is a partition that went while we worked on it, it is not ours to handle.
                if [child.oid for child in before] == [child.oid for child in self._tree(table)]:
                    raise
        raise ZdmError(
            f"the index {action.name} of {action.table} does not become whole",
            remedy="Something drops what is built; run again when it does not.",
        )

    def _apart(self, action: PartitionedIndex) -> bool:
        """Build what is missing of the partitions' own indexes; False if nothing was."""
        table = self._oid(action.table)
        missing = [leaf for leaf in leaves(self.session, table) if not self._built(action, leaf)]
        for leaf in missing:
            try:
                self._build(action, leaf.name, _part_of(action, leaf), action.body)
            except pg.UndefinedTable:
                if leaf in leaves(self.session, table):
                    raise
        return bool(missing)

    def _built(self, action: PartitionedIndex, leaf: Leaf) -> bool:
        found = self._index(_part_of(action, leaf))
        return found is not None and found.valid

    def remove_index(self, action: PartitionedIndex, mark: Callable[[Connection], None]) -> None:
        """Drop what was built of it: the table's own with all that is attached, then what was not attached yet."""
        self._drop(action, action.table, action.name)
        for child in self._tree(self._oid(action.table)):
            name = qualified(child.name.schema_, _building(action, child.oid))
            if self._index(name) is None:
                continue
            if child.partitioned:
                self._drop(action, child.name, name.name)
                continue
            run_concurrently(
                self.session,
                sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(_identifier(name)),
                sql.SQL("SELECT pg_catalog.to_regclass({}) IS NULL").format(
                    sql.Literal(_identifier(name).as_string(None))
                ),
                (),
                (TableLock(table=child.name, mode=Lock.SHARE_UPDATE_EXCLUSIVE, only=True),),
                self.waiting,
            )
        run_locked(self.session, (), (), self.budget, mark, self.waiting)

    def _drop(self, action: PartitionedIndex, table: QualifiedName, name: str) -> None:
        statement: sql.Composable = sql.SQL("DROP INDEX IF EXISTS {}").format(
            _identifier(qualified(table.schema_, name))
        )
        if action.constraint:
            statement = sql.SQL("ALTER TABLE IF EXISTS {} DROP CONSTRAINT IF EXISTS {}").format(
                _identifier(table), sql.Identifier(name)
            )
        locks = (TableLock(table=table, mode=Lock.ACCESS_EXCLUSIVE),)
        run_locked(self.session, (statement,), locks, self.budget, self.guard, self.waiting)

    def _own(self, action: PartitionedIndex, table: QualifiedName, name: QualifiedName) -> None:
        """Make the index of a partitioned table without those of its partitions."""
        kind = sql.SQL("UNIQUE INDEX" if action.unique else "INDEX")
        body = sql.SQL(action.body)  # composed of identifiers, or spelled by the server
        statement = sql.SQL("CREATE {} {} ON ONLY {} {}").format(
            kind, sql.Identifier(name.name), _identifier(table), body
        )
        mode = Lock.SHARE
        if action.constraint:
            mode = Lock.ACCESS_EXCLUSIVE
            statement = sql.SQL("ALTER TABLE ONLY {} ADD CONSTRAINT {} {}").format(
                _identifier(table), sql.Identifier(name.name), body
            )
        locks = (TableLock(table=table, mode=mode, only=True),)
        run_locked(self.session, (statement,), locks, self.budget, self.guard, self.waiting)

    def _below(self, action: PartitionedIndex, table: int, name: QualifiedName, index: _Index) -> None:
        """Give every child of a table its part of the index, and attach it."""
        for child in self._children(table, index.oid):
            attached = child.attached
            if attached is None:
                mine = qualified(child.name.schema_, _building(action, child.oid))
                self._part(action, child, mine, index)
                self._attach(action, child, mine, name, index)
                attached = self._attached(table, index.oid, child.oid)
            if child.partitioned and attached is not None:
                below = self._index(attached)
                if below is not None and not below.valid:
                    self._below(action, child.oid, attached, below)

    def _part(self, action: PartitionedIndex, child: _Child, mine: QualifiedName, index: _Index) -> None:
        """Build a child's part under a name that tells whose it is, until it is attached."""
        if child.partitioned:
            if self._index(mine) is None:
                self._own(action, child.name, mine)
            return
        self._build(action, child.name, mine, index.tail if action.constraint else action.body)

    def _build(self, action: PartitionedIndex, on: QualifiedName, name: QualifiedName, body: str) -> None:
        run_concurrently(
            self.session,
            sql.SQL("CREATE {}INDEX CONCURRENTLY {} ON {} {}").format(
                sql.SQL("UNIQUE " if action.unique or action.constraint else ""),
                sql.Identifier(name.name),
                _identifier(on),
                sql.SQL(body),
            ),
            ddl.index_ready(name, on),
            (sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(_identifier(name)),),
            (TableLock(table=on, mode=Lock.SHARE_UPDATE_EXCLUSIVE, only=True),),
            self.waiting,
        )

    def _attach(
        self,
        action: PartitionedIndex,
        child: _Child,
        mine: QualifiedName,
        parent: QualifiedName,
        index: _Index,
    ) -> None:
        statements: list[sql.Composable] = []
        if action.constraint and not child.partitioned:
            statements.append(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {name} UNIQUE USING INDEX {name}{timing}").format(
                    _identifier(child.name), name=sql.Identifier(mine.name), timing=sql.SQL(index.timing)
                )
            )
        statements.append(
            sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(_identifier(parent), _identifier(mine))
        )
        if not action.name.startswith(TEMPORARY):
            final = self._free(child.name.schema_, fit(f"{child.name.name}_{action.name}"))
            statements.append(
                sql.SQL("ALTER INDEX {} RENAME TO {}").format(_identifier(mine), sql.Identifier(final))
            )
        locks = (TableLock(table=child.name, mode=Lock.ACCESS_EXCLUSIVE, only=True),)
        run_locked(self.session, statements, locks, self.budget, self.guard, self.waiting)

    # -- foreign keys -------------------------------------------------------------------------------------------------

    def build_key(self, action: PartitionedForeignKey, mark: Callable[[Connection], None]) -> None:
        """Add the key to every partition and prove it there; then add it to the table, which proves nothing again."""
        table = self._oid(action.table)
        body = sql.SQL(action.body)  # composed of identifiers, or spelled by the server
        proved = self._key(table, action.name)
        if proved is None:
            for leaf in leaves(self.session, table):
                try:
                    self._key_of(action, leaf.oid, leaf.name, body)
                except pg.UndefinedTable:
                    if leaf in leaves(self.session, table):
                        raise
            statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                _identifier(action.table), sql.Identifier(action.name), body
            )
            run_locked(
                self.session, (statement,), _key_locks(action, action.table), self.budget, mark, self.waiting
            )
        else:
            if not proved:
                self._prove(action, action.table)
            run_locked(self.session, (), (), self.budget, mark, self.waiting)

    def _key_of(
        self, action: PartitionedForeignKey, oid: int, leaf: QualifiedName, body: sql.Composable
    ) -> None:
        name = sql.Identifier(action.name)
        if self._key(oid, action.name) is None:
            statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(
                _identifier(leaf), name, body
            )
            locks = _key_locks(action, leaf)
            run_locked(self.session, (statement,), locks, self.budget, self.guard, self.waiting)
        self._prove(action, leaf)

    def _prove(self, action: PartitionedForeignKey, table: QualifiedName) -> None:
        run_scan(
            self.session,
            sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
                _identifier(table), sql.Identifier(action.name)
            ),
            ddl.constraint_valid(action.name, table),
            (
                TableLock(table=table, mode=Lock.SHARE_UPDATE_EXCLUSIVE, hold="scan"),
                TableLock(table=action.references, mode=Lock.ROW_SHARE, hold="scan"),
            ),
            self.budget,
            None,
            self.waiting,
        )

    def remove_key(self, action: PartitionedForeignKey, mark: Callable[[Connection], None]) -> None:
        """Drop the key from the table, and from the partitions that have it already."""
        table = self._oid(action.table)
        drop = sql.SQL("ALTER TABLE IF EXISTS {} DROP CONSTRAINT IF EXISTS {}")
        name = sql.Identifier(action.name)
        for oid, on in [(table, action.table), *leaves(self.session, table)]:
            if self._key(oid, action.name) is not None:
                locks = _key_locks(action, on)
                statement = drop.format(_identifier(on), name)
                run_locked(self.session, (statement,), locks, self.budget, self.guard, self.waiting)
        run_locked(self.session, (), (), self.budget, mark, self.waiting)

    # -- what there is ------------------------------------------------------------------------------------------------

    def _oid(self, table: QualifiedName) -> int:
        row = self.session.execute(_TABLE, (table.schema_, table.name)).fetchone()
        if row is None:
            raise Drift(f"table {table} is gone", remedy="Roll back, or restore the table.")
        return int(row[0])

    def _key(self, table: int, name: str) -> bool | None:
        """Whether the foreign key is proven; None if there is none."""
        row = self.session.execute(_KEY, (table, name)).fetchone()
        return None if row is None else bool(row[0])

    def _index(self, name: QualifiedName) -> _Index | None:
        row = self.session.execute(_INDEX, (name.schema_, name.name)).fetchone()
        if row is None:
            return None
        oid, valid, definition, prefix, deferrable, deferred = row
        _, _, tail = definition.partition(prefix)
        timing = f" DEFERRABLE INITIALLY {'DEFERRED' if deferred else 'IMMEDIATE'}" if deferrable else ""
        return _Index(oid, valid, tail, timing)

    def _children(self, table: int, index: int) -> list[_Child]:
        rows = self.session.execute(_CHILDREN, (index, table)).fetchall()
        return [
            _Child(
                oid,
                qualified(schema, name),
                partitioned,
                qualified(index_schema, index_name) if index_name is not None else None,
            )
            for oid, schema, name, partitioned, index_schema, index_name in rows
        ]

    def _attached(self, table: int, index: int, child: int) -> QualifiedName | None:
        return next((one.attached for one in self._children(table, index) if one.oid == child), None)

    def _tree(self, table: int) -> list[_Child]:
        """Every descendant, those above first."""
        found: list[_Child] = []
        for child in self._children(table, 0):
            found += [child, *(self._tree(child.oid) if child.partitioned else ())]
        return found

    def _free(self, schema: str, name: str) -> str:
        """A name for an index that no relation of the schema has."""
        candidate, count = name, 0
        while self.session.execute(_TABLE, (schema, candidate)).fetchone() is not None:
            count += 1
            candidate = fit(name, limit=MAX_IDENTIFIER_BYTES - len(str(count))) + str(count)
        return candidate


def statements_of(action: PartitionedIndex | PartitionedForeignKey) -> tuple[str, ...]:
    """The statements for people, with a stand-in for each partition's name."""
    table, partition = _identifier(action.table), sql.SQL("<partition>")
    name, body = sql.Identifier(action.name), sql.SQL(action.body)
    texts: list[sql.Composable]
    if isinstance(action, PartitionedForeignKey):
        if action.remove:
            texts = [sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(table, name)]
        else:
            texts = [
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(partition, name, body),
                sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(partition, name),
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(table, name, body),
            ]
    elif action.remove and action.constraint:
        texts = [sql.SQL("ALTER TABLE IF EXISTS {} DROP CONSTRAINT IF EXISTS {}").format(table, name)]
    elif action.remove:
        texts = [
            sql.SQL("DROP INDEX IF EXISTS {}").format(
                _identifier(qualified(action.table.schema_, action.name))
            )
        ]
    elif action.apart:
        made = sql.SQL("CREATE {}INDEX CONCURRENTLY <index of the partition> ON {} {}")
        texts = [made.format(sql.SQL("UNIQUE " if action.unique else ""), partition, body)]
    else:
        unique = sql.SQL("UNIQUE " if action.unique or action.constraint else "")
        part = sql.SQL("<index of the partition>")
        texts = [
            sql.SQL("ALTER TABLE ONLY {} ADD CONSTRAINT {} {}").format(table, name, body)
            if action.constraint
            else sql.SQL("CREATE {}INDEX {} ON ONLY {} {}").format(unique, name, table, body),
            sql.SQL("CREATE {}INDEX CONCURRENTLY {} ON {} {}").format(
                unique, part, partition, sql.SQL("<the same>") if action.constraint else body
            ),
        ]
        if action.constraint:
            texts.append(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {p} UNIQUE USING INDEX {p}").format(partition, p=part)
            )
        texts.append(sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(name, part))
    return tuple(one.as_string(None) for one in texts)


def _building(action: PartitionedIndex, partition: int) -> str:
    """What a partition's part is called until it has its name: nobody else's, and the same in every run."""
    return fit(f"{TEMPORARY}{partition}_{action.name}")


def _part_of(action: PartitionedIndex, leaf: Leaf) -> QualifiedName:
    return qualified(leaf.name.schema_, _building(action, leaf.oid))


def _key_locks(action: PartitionedForeignKey, table: QualifiedName) -> tuple[TableLock, ...]:
    mode = Lock.ACCESS_EXCLUSIVE if action.remove else Lock.SHARE_ROW_EXCLUSIVE
    return ddl.locks((table, action.references), mode)


def _identifier(name: QualifiedName) -> sql.Identifier:
    return sql.Identifier(name.schema_, name.name)
