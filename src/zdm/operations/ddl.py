"""Composing the statements, locks, probes and undo of an operation's own steps. Names and literals are never concatenated."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from zdm.model.names import QualifiedName, chosen_by_server, split_name
from zdm.model.step import (
    Concurrent,
    Lock,
    PartitionedForeignKey,
    PartitionedIndex,
    Phase,
    Scan,
    Stage,
    Step,
    TableLock,
    Transaction,
)


def text(template: str, /, **parts: sql.Composable) -> str:
    """Compose SQL from a literal template and composed parts, and return it as text."""
    return sql.SQL(template).format(**parts).as_string(None)


def raw(sql_text: str) -> sql.SQL:
    """SQL that was checked before: spelled by the server, or read by `zdm.operations.params`."""
    return sql.SQL(sql_text)


def table(name: QualifiedName) -> sql.Identifier:
    """The qualified identifier of a table, index or type."""
    return sql.Identifier(name.schema_, name.name)


def ident(name: str) -> sql.Identifier:
    """The identifier of a column, constraint or role."""
    return sql.Identifier(name)


def idents(names: Iterable[str]) -> sql.Composed:
    """Identifiers with commas between them."""
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def dotted(name: str) -> sql.Identifier:
    """The identifier of a name that may be qualified, such as an operator class or a collation."""
    found = split_name(name, "")
    return sql.Identifier(found.schema_, found.name) if found.schema_ else sql.Identifier(found.name)


def definition(column: str, type_: str, collation: str | None = None) -> sql.Composed:
    """``name type [COLLATE collation]``."""
    tail = sql.SQL(" COLLATE {}").format(dotted(collation)) if collation else sql.SQL("")
    return sql.SQL("{} {}{}").format(ident(column), raw(type_), tail)


def filling(depth: int) -> int:
    """The turn, within the stage of the backfills, in which tables of that depth are filled; see `TableMapping.depth`.

    The turn before is for what must be so for that, the turn after for the index of the keys that rows have then, and the one after
    that for rows which wait for others of their own table.
    """
    return 4 * depth + 1


def lock(name: QualifiedName, mode: Lock = Lock.ACCESS_EXCLUSIVE) -> TableLock:
    """A brief lock on one table, by default the strongest."""
    return TableLock(table=name, mode=mode)


def locks(names: Iterable[QualifiedName], mode: Lock) -> tuple[TableLock, ...]:
    """Brief locks on several tables in the one order that every step uses: by qualified name."""
    return tuple(lock(n, mode) for n in sorted(set(names), key=lambda n: (n.schema_, n.name)))


def index_ready(name: QualifiedName, on: QualifiedName) -> str:
    """A query of one boolean: the index stands on that table, valid."""
    return text(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i"
        " JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace"
        " WHERE n.nspname = {schema} AND c.relname = {index} AND s.nspname = {on_schema} AND t.relname = {on}"
        " AND i.indisvalid AND i.indisready)",
        schema=sql.Literal(name.schema_),
        index=sql.Literal(name.name),
        on_schema=sql.Literal(on.schema_),
        on=sql.Literal(on.name),
    )


def index_gone(name: QualifiedName) -> str:
    """A query of one boolean: there is no such index."""
    return text(
        "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = {schema} AND c.relname = {index} AND c.relkind IN ('i', 'I'))",
        schema=sql.Literal(name.schema_),
        index=sql.Literal(name.name),
    )


def constraint_valid(name: str, on: QualifiedName) -> str:
    """A query of one boolean: the constraint stands on that table, validated."""
    return text(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k"
        " JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace"
        " WHERE s.nspname = {schema} AND t.relname = {on} AND k.conname = {name} AND k.convalidated)",
        schema=sql.Literal(on.schema_),
        on=sql.Literal(on.name),
        name=sql.Literal(name),
    )


def drop_index(
    name: QualifiedName, on: QualifiedName, *, partitioned: bool = False
) -> Concurrent | PartitionedIndex:
    """DROP INDEX CONCURRENTLY IF EXISTS, as an action that can be repeated."""
    if partitioned:
        return PartitionedIndex(table=on, name=name.name, body="", remove=True)
    return Concurrent(
        statement=text("DROP INDEX CONCURRENTLY IF EXISTS {i}", i=table(name)),
        done_when=index_gone(name),
        locks=(lock(on, Lock.SHARE_UPDATE_EXCLUSIVE),),
    )


def drop_constraint(name: str, on: QualifiedName, *also: QualifiedName) -> Transaction:
    """Drop a constraint if it is there. `also`: the table that a foreign key references, which is locked as hard."""
    return Transaction(
        statements=(
            text("ALTER TABLE IF EXISTS {t} DROP CONSTRAINT IF EXISTS {c}", t=table(on), c=ident(name)),
        ),
        locks=locks((on, *also), Lock.ACCESS_EXCLUSIVE),
    )


def in_target(target: str, *statements: str) -> tuple[str, ...]:
    """Statements with texts of the migration's: names in them mean what they mean in its expressions."""
    path = idents(dict.fromkeys((target, "public", "pg_temp")))
    return (
        text("SET LOCAL search_path TO {path}", path=path),
        *statements,
        "SET LOCAL search_path TO pg_catalog, pg_temp",
    )


def alter(on: QualifiedName, template: str, /, **parts: sql.Composable) -> Transaction:
    """One brief ALTER TABLE under ACCESS EXCLUSIVE."""
    return Transaction(
        statements=(text("ALTER TABLE {table} " + template, table=table(on), **parts),), locks=(lock(on),)
    )


_NAME_NOT_NULL = """
DECLARE present name; wanted name;
BEGIN
  SELECT k.conname INTO present FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
  WHERE k.conrelid = {t}::pg_catalog.regclass AND k.contype = 'n' AND a.attname = {c};
  FOREACH wanted IN ARRAY {wanted}::name[] LOOP
    EXIT WHEN present IS NULL OR wanted = present;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_namespace AS n ON n.oid = k.connamespace
                   WHERE n.nspname = {schema} AND k.conname = wanted) THEN
      EXECUTE pg_catalog.format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', {t}, present, wanted);
      EXIT;
    END IF;
  END LOOP;
END
"""


def name_not_null(on: QualifiedName, column: str, operation: str) -> Step:
    """After the swap (PostgreSQL 18 and later): the NOT NULL constraint of a column that had another name takes the name that the
    server would have chosen."""
    wanted = [chosen_by_server(on.name, column, f"not_null{number or ''}") for number in range(10)]
    body = text(
        _NAME_NOT_NULL,
        t=sql.Literal(table(on).as_string(None)),
        c=sql.Literal(column),
        wanted=sql.Literal(wanted),
        schema=sql.Literal(on.schema_),
    )
    return Step(
        id=f"cleanup.{on}.not_null.{column}",
        title=f"give the NOT NULL of {column} of {on} the name that the server would choose",
        phase=Phase.CLEANUP,
        stage=Stage.FINISH,
        operation=operation,
        action=Transaction(statements=(text("DO {body}", body=sql.Literal(body)),), locks=(lock(on),)),
    )


def create_index(
    name: QualifiedName,
    on: QualifiedName,
    tail: sql.Composable,
    *,
    unique: bool = False,
    partitioned: bool = False,
) -> Concurrent | PartitionedIndex:
    """CREATE [UNIQUE] INDEX CONCURRENTLY; `tail` begins with USING. A repeat first drops what an aborted run left invalid."""
    if partitioned:
        return PartitionedIndex(table=on, name=name.name, body=tail.as_string(None), unique=unique)
    return Concurrent(
        statement=text(
            "CREATE UNIQUE INDEX CONCURRENTLY {i} ON {t} {tail}"
            if unique
            else "CREATE INDEX CONCURRENTLY {i} ON {t} {tail}",
            i=ident(name.name),
            t=table(on),
            tail=tail,
        ),
        done_when=index_ready(name, on),
        cleanup=(text("DROP INDEX CONCURRENTLY IF EXISTS {i}", i=table(name)),),
        locks=(TableLock(table=on, mode=Lock.SHARE_UPDATE_EXCLUSIVE, hold="scan"),),
    )


def validate_constraint(name: str, on: QualifiedName, *references: QualifiedName) -> Scan:
    """VALIDATE CONSTRAINT: reads the whole table, lets everybody read and write meanwhile."""
    weak = tuple(TableLock(table=r, mode=Lock.ROW_SHARE, hold="scan") for r in references if r != on)
    return Scan(
        statement=text("ALTER TABLE {t} VALIDATE CONSTRAINT {c}", t=table(on), c=ident(name)),
        done_when=constraint_valid(name, on),
        locks=(TableLock(table=on, mode=Lock.SHARE_UPDATE_EXCLUSIVE, hold="scan"), *weak),
    )


def partitioned_unique(
    *,
    step_id: str,
    phase: Phase,
    stage: Stage,
    operation: str,
    on: QualifiedName,
    name: str,
    body: str,
) -> Step:
    """The step of a UNIQUE constraint on a partitioned table; `body` is what follows the constraint's name."""
    action = PartitionedIndex(table=on, name=name, body=body, constraint=True)
    return Step(
        id=step_id,
        title=f"build the unique constraint {name} of {on}, partition by partition",
        phase=phase,
        stage=stage,
        operation=operation,
        action=action,
        undo=(action.model_copy(update={"remove": True}),),
        naive="add-unique-builds-index",
    )


def checked_constraint(
    *,
    step_id: str,
    phase: Phase,
    stage: Stage,
    operation: str,
    on: QualifiedName,
    name: str,
    body: sql.Composable,
    references: QualifiedName | None = None,
    naive: str,
    partitioned: bool = False,
) -> list[Step]:
    """The two steps of a CHECK or FOREIGN KEY on a table in use: NOT VALID first, proven by a scan that blocks nobody.

    A foreign key of a partitioned table is one step, which goes from partition to partition.
    """
    if partitioned and references is not None:
        action = PartitionedForeignKey(table=on, name=name, body=body.as_string(None), references=references)
        return [
            Step(
                id=step_id,
                title=f"add the foreign key {name} to {on}, partition by partition",
                phase=phase,
                stage=stage,
                operation=operation,
                action=action,
                undo=(action.model_copy(update={"remove": True}),),
                naive=naive,
            )
        ]
    mode = Lock.SHARE_ROW_EXCLUSIVE if references else Lock.ACCESS_EXCLUSIVE
    others = () if references is None else (references,)
    what = "foreign key" if references else "check"
    return [
        Step(
            id=step_id,
            title=f"add the {what} {name} to {on} for new rows only",
            phase=phase,
            stage=stage,
            operation=operation,
            action=Transaction(
                statements=(
                    text(
                        "ALTER TABLE {t} ADD CONSTRAINT {c} {body} NOT VALID",
                        t=table(on),
                        c=ident(name),
                        body=body,
                    ),
                ),
                locks=locks((on, *others), mode),
            ),
            undo=(drop_constraint(name, on, *others),),
            naive=naive,
        ),
        Step(
            id=f"{step_id}.validate",
            title=f"prove the {what} {name} for the rows of {on} that were there before",
            phase=phase,
            stage=stage,
            operation=operation,
            action=validate_constraint(name, on, *others),
            naive=naive,
        ),
    ]
