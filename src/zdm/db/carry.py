"""The server rewrites what hangs on a replaced column: indexes, checks and foreign keys for its successor.

In a transaction that is rolled back, a temporary copy of the table without rows gets the successors' types under the old
names, then the index or check as the server deparses it, then the successors' names. What the server deparses now is the
definition for the successor: no SQL is searched and replaced, and what cannot work with the new type is an error of the
server's own words. A foreign key cannot be tried on a temporary table; it is spelled from the catalog's fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import psycopg
from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, rename, rename_columns, retype
from zdm.db.dependants.under_lock import COPY, Allowance, TooLongUnderLockError
from zdm.db.session import Connection, transaction
from zdm.errors import Problem
from zdm.model.names import QualifiedName, qualified
from zdm.model.requests import AfterSwap, CarriedColumn, CarryRequest

_CLONE = "_zdm_carry"
_OBJECT = "_zdm_carried"

_INDEX = """
SELECT pg_get_indexdef(x.oid) AS definition, pg_get_expr(i.indpred, i.indrelid),
       format('CREATE %%sINDEX %%I ON %%s%%I.%%I ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
              x.relname, CASE x.relkind WHEN 'I' THEN 'ONLY ' ELSE '' END,
              -- before 15 the server deparses a temporary table's schema by its real name
              CASE WHEN t.relpersistence = 't' AND current_setting('server_version_num')::int >= 150000
                THEN 'pg_temp' ELSE tn.nspname END, t.relname) AS prefix
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE {condition}
"""

_FOREIGN_KEY = """
SELECT (SELECT array_agg(a.attname::text ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, n)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum),
       pn.nspname, p.relname,
       (SELECT array_agg(a.attname::text ORDER BY u.n) FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, n)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum),
       k.confmatchtype::text, k.confupdtype::text, k.confdeltype::text, k.condeferrable, k.condeferred,
       (SELECT coalesce(array_agg(a.attname::text ORDER BY u.n), '{}')
        FROM jsonb_array_elements_text(CASE jsonb_typeof(to_jsonb(k) -> 'confdelsetcols') WHEN 'array'
          THEN to_jsonb(k) -> 'confdelsetcols' ELSE '[]' END) WITH ORDINALITY AS u (attnum, n)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum::int),
       coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false),
       NOT coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE n.nspname = %s AND t.relname = %s AND k.conname = %s AND k.contype = 'f'
"""

# SET DEFAULT of a list of columns, which is ON DELETE alone, touches no other.
_SET_TO_DEFAULT = """
SELECT string_agg(a.attname, ', ' ORDER BY a.attnum)
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (k.conkey) AND a.atthasdef AND a.attname = ANY (%s)
WHERE n.nspname = %s AND t.relname = %s AND k.conname = %s AND k.contype = 'f' AND (k.confupdtype = 'd' OR k.confdeltype = 'd'
  AND (CASE jsonb_typeof(to_jsonb(k) -> 'confdelsetcols') WHEN 'array' THEN (to_jsonb(k) -> 'confdelsetcols') @> to_jsonb(a.attnum)
       ELSE true END))
"""

_OLD_TYPES = """
SELECT DISTINCT format_type(a.atttypid, NULL) FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid
JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = %s AND t.relname = %s AND a.attname = ANY (%s)
"""

_CONSTANT = r"(\(-?[0-9.]+(?:e[+-]?[0-9]+)?\)|'(?:[^']|'')*')::"

_CONTYPES = {"unique": "u", "check": "c", "primary key": "p", "exclusion": "x"}
_ACTIONS = {"a": "", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def carry(
    conn: Connection, requests: Sequence[CarryRequest], allowance: Allowance | None = None
) -> tuple[dict[str, str], list[Problem]]:
    """Rewrite definitions for the successors of their columns, and say which cannot follow. Nothing is left in the database.

    Parameters
    ----------
    allowance: what the swap may build under lock.

    Returns
    -------
    The new definitions by the requests' keys (for an index what follows ``ON table``, else what follows the constraint's
    name), and a problem for each request that the server refused.
    """
    found: dict[str, str] = {}
    problems: list[Problem] = []
    if not requests:
        return found, problems
    with transaction(conn, rollback=True):
        for request in requests:
            try:
                with conn.transaction(force_rollback=True):
                    found[request.key] = _carry(conn, request)
                written = _as_written(conn, request) if request.kind == "index" else None
                if written is not None and written != found[request.key]:
                    found[request.written_key] = written
                if request.in_swap:
                    with conn.transaction(force_rollback=True):
                        found[request.final_key] = _for_the_swap(conn, request, allowance or Allowance())
                elif request.late_actions and _set_to_default(conn, request):
                    with conn.transaction(force_rollback=True):
                        found[request.final_key] = _foreign_key(conn, request, final=True)
                if request.made_anew is not None:
                    with conn.transaction(force_rollback=True):
                        found[request.after_key] = _foreign_key(
                            conn, request, final=True, after=request.made_anew
                        )
            except TooLongUnderLockError as error:
                problems.append(_too_long(request, str(error)))
            except CannotFollowError as error:
                problems.append(_refusal(request, str(error)))
            except psycopg.Error as error:
                if error.sqlstate is None or error.sqlstate[:2] in {"08", "57", "58", "XX"}:
                    raise
                problems.append(_refusal(request, (error.diag.message_primary or str(error)).strip()))
    return found, problems


def _refusal(request: CarryRequest, why: str) -> Problem:
    drop = "drop_index" if request.kind == "index" else "drop_constraint"
    what = "unique constraint" if request.kind == "unique" else request.kind
    return Problem(
        f"the {what} {request.name} of {request.table} cannot follow the replaced column: {why}",
        where=request.where,
        remedy=f"Add {drop} {request.name} to this migration, and create the one you want on the new column.",
        rule="cannot-be-carried",
    )


def _too_long(request: CarryRequest, why: str) -> Problem:
    return Problem(
        f"the {named(request)} {request.name} of {request.table} can only be built again under lock: {why}",
        where=request.where,
        remedy=f"Make a new table with shadow_table; or add drop_constraint {request.name} to this migration if it may go; or "
        "raise `lock_budget` if a longer stall does no harm.",
        rule="built-in-the-swap",
    )


def named(request: CarryRequest) -> str:
    """What people call the kind of constraint that only the swap can build."""
    return "exclusion constraint" if request.kind == "exclusion" else f"deferrable {request.kind} constraint"


def _for_the_swap(conn: Connection, request: CarryRequest, allowance: Allowance) -> str:
    """The definition over the final names, once it is known that it is built within the lock budget."""
    body = _constraint_body(conn, request)
    add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}")
    allowance.take(conn, request.table, [add.format(COPY, sql.Identifier(_OBJECT), sql.SQL(body))])
    clone = _clone(conn, request.table, request.columns)
    conn.execute(add.format(clone, sql.Identifier(_OBJECT), sql.SQL(body)))
    rename(conn, clone, request.columns)
    rename_columns(conn, clone, request.finals)
    return _constraint_of_clone(conn)


def _carry(conn: Connection, request: CarryRequest) -> str:
    if request.kind == "foreign key":
        return _foreign_key(conn, request)
    if request.kind == "index":
        return _index_of_clone(conn, request, _index_as_is(conn, request))
    clone = _clone(conn, request.table, request.columns)
    body = _constraint_body(conn, request)
    conn.execute(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(clone, sql.Identifier(_OBJECT), sql.SQL(body))
    )
    rename(conn, clone, request.columns)
    return _constraint_of_clone(conn)


def _index_as_is(conn: Connection, request: CarryRequest) -> str:
    condition = "x.relname = %s AND x.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"
    return index_body(conn, condition, (request.name, request.table.schema_))


def _index_of_clone(conn: Connection, request: CarryRequest, body: str) -> str:
    """What the server says of an index with that body over the successors' types."""
    clone = _clone(conn, request.table, request.columns)
    statement = sql.SQL("CREATE INDEX {} ON {} ").format(sql.Identifier(_OBJECT), clone)
    conn.execute(sql.Composed([statement, sql.SQL(body)]))
    rename(conn, clone, request.columns)
    return index_body(
        conn,
        "x.relname = %s AND x.relnamespace = pg_my_temp_schema()",
        (_OBJECT,),
        _tablespace(conn, request),
    )


def _as_written(conn: Connection, request: CarryRequest) -> str | None:
    """The same of a body in which constants have not the old columns' types; None if none has, or if it cannot be had.

    The server stores a constant as one of the type that it was compared with, and spells it so. It is only told of, never built.
    """
    rows = conn.execute(
        _OLD_TYPES, (request.table.schema_, request.table.name, [c.old for c in request.columns])
    )
    body = written = _index_as_is(conn, request)
    for (type_,) in rows.fetchall():
        written = re.sub(_CONSTANT + re.escape(type_), r"\1", written)
    if written == body:
        return None
    try:
        with conn.transaction(force_rollback=True):
            return _index_of_clone(conn, request, written)
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate[:2] in {"08", "57", "58", "XX"}:
            raise
        return None


def _constraint_of_clone(conn: Connection) -> str:
    row = conn.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conname = %s AND conrelid = (SELECT oid FROM pg_class WHERE relname = %s"
        " AND relnamespace = pg_my_temp_schema())",
        (_OBJECT, _CLONE),
    ).fetchone()
    assert row is not None
    return _without_not_valid(row[0])


def _set_to_default(conn: Connection, request: CarryRequest) -> str:
    """The replaced columns with a default that the foreign key would set to it; empty if there are none.

    Both keys would set the columns to their default, in the order of their triggers' names, and only the old column has one.
    """
    row = conn.execute(
        _SET_TO_DEFAULT,
        (
            [column.old for column in request.columns],
            request.table.schema_,
            request.table.name,
            request.name,
        ),
    ).fetchone()
    return "" if row is None or row[0] is None else str(row[0])


def _clone(
    conn: Connection, table: QualifiedName, columns: Sequence[CarriedColumn], name: str = _CLONE
) -> sql.Identifier:
    """An empty temporary copy whose replaced columns have their successors' types, still under the old names."""
    clone = sql.Identifier("pg_temp", name)
    conn.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(
            sql.Identifier(name), sql.Identifier(table.schema_, table.name)
        )
    )
    for column in columns:
        retype(conn, clone, column)
    return clone


def index_body(conn: Connection, condition: str, parameters: Sequence[str], tablespace: str = "") -> str:
    """What follows ``CREATE INDEX name ON table`` in the server's own definition, with the clause `tablespace` in its place."""
    query = sql.SQL(_INDEX).format(condition=sql.SQL(condition))
    row = conn.execute(query, parameters).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    definition, predicate, prefix = row
    where = f" WHERE {predicate}" if predicate is not None else ""
    if not definition.startswith(prefix) or not definition.endswith(where):
        raise CannotFollowError(f"its definition is not understood: {definition}")
    body: str = definition[len(prefix) : len(definition) - len(where)]
    return f"{body}{tablespace}{where}"


def _tablespace(conn: Connection, request: CarryRequest) -> str:
    """The clause that builds an index where the old one lies, which the server's definitions leave out."""
    row = conn.execute(
        "SELECT s.spcname, has_tablespace_privilege(s.oid, 'CREATE') FROM pg_class x JOIN pg_tablespace s ON s.oid = x.reltablespace"
        " WHERE x.relname = %s AND x.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)",
        (request.name, request.table.schema_),
    ).fetchone()
    if row is None:
        return ""
    name, allowed = row
    if not allowed:
        raise CannotFollowError(
            f"it lies in the tablespace {name}, where the connected role may create nothing"
        )
    return f" TABLESPACE {sql.Identifier(name).as_string(None)}"


def _constraint_body(conn: Connection, request: CarryRequest) -> str:
    row = conn.execute(
        "SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid"
        " JOIN pg_namespace n ON n.oid = t.relnamespace"
        " WHERE n.nspname = %s AND t.relname = %s AND k.conname = %s AND k.contype = %s",
        (
            request.table.schema_,
            request.table.name,
            request.name,
            _CONTYPES[request.kind],
        ),
    ).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    definition: str = row[0]
    if definition.endswith(" NOT ENFORCED"):
        raise CannotFollowError("it is NOT ENFORCED, which cannot be validated")
    return _without_not_valid(definition)


def _without_not_valid(definition: str) -> str:
    return definition.removesuffix(" NOT VALID")


def _foreign_key(
    conn: Connection, request: CarryRequest, *, final: bool = False, after: AfterSwap | None = None
) -> str:
    """What follows the constraint's name.

    Parameters
    ----------
    final: over the names that the columns have at the end of the swap, and with the timing that the old one has.
    after: the table that it points at, if that is swapped as well by then.
    """
    row = conn.execute(
        _FOREIGN_KEY.encode(), (request.table.schema_, request.table.name, request.name)
    ).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    (
        columns,
        schema,
        parent,
        parent_columns,
        match,
        on_update,
        on_delete,
        deferrable,
        deferred,
        some,
        period,
        off,
    ) = row
    if period or off:
        raise CannotFollowError("PERIOD and NOT ENFORCED foreign keys are not carried")
    names = {column.old: column.new for column in request.columns}
    parent_names = {column.old: column.new for column in request.referenced}
    _comparable(conn, request, columns, QualifiedName(schema_=schema, name=parent), parent_columns)
    timing = " DEFERRABLE INITIALLY DEFERRED" if deferrable else ""
    if (given := _set_to_default(conn, request)) and not final:
        if not request.late_actions:
            raise CannotFollowError(
                f"it sets {given} to a default, which the successor has only after cleanup"
            )
        # The old key acts, the sync carries that over, and this one looks when both have.
        on_update, on_delete, timing = "a", "a", " DEFERRABLE INITIALLY DEFERRED"
    if final:
        names = {old: dict(request.finals).get(new, new) for old, new in names.items()} | {
            physical: name
            for physical, name in request.finals
            if physical in columns and physical not in names
        }
        if after is not None or request.references == request.table:
            # Its own columns have them, too; another table's swap comes later.
            own = dict(after.columns if after is not None else request.finals)
            parent_names = {
                c: own.get(parent_names.get(c, c), parent_names.get(c, c)) for c in parent_columns
            }
        timing = f" DEFERRABLE INITIALLY {'DEFERRED' if deferred else 'IMMEDIATE'}" if deferrable else ""
    pointed_at = after.table if after is not None else request.instead or qualified(schema, parent)
    words = sql.Composed([])
    if match == "f":
        words += sql.SQL(" MATCH FULL")
    if _ACTIONS[on_update]:
        words += sql.SQL(" ON UPDATE {}").format(sql.SQL(_ACTIONS[on_update]))
    if _ACTIONS[on_delete]:
        words += sql.SQL(" ON DELETE {}").format(sql.SQL(_ACTIONS[on_delete]))
        if some:
            words += sql.SQL(" ({})").format(_identifiers(names.get(c, c) for c in some))
    # Until cleanup the old key says when it is checked, and SET CONSTRAINTS names that one; this one waits for the end.
    words += sql.SQL(timing)
    return (
        sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({}){}")
        .format(
            _identifiers(names.get(c, c) for c in columns),
            sql.Identifier(pointed_at.schema_, pointed_at.name),
            _identifiers(parent_names.get(c, c) for c in parent_columns),
            words,
        )
        .as_string(conn)
    )


def _comparable(
    conn: Connection,
    request: CarryRequest,
    columns: Sequence[str],
    parent: QualifiedName,
    parent_columns: Sequence[str],
) -> None:
    """Let the server try the key between two empty temporary copies, so that types without a common ``=`` are refused."""
    clone = _clone(conn, request.table, request.columns)
    other = _clone(conn, parent, request.referenced, "_zdm_carry_parent")
    conn.execute(sql.SQL("ALTER TABLE {} ADD UNIQUE ({})").format(other, _identifiers(parent_columns)))
    conn.execute(
        sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({})").format(
            clone, _identifiers(columns), other, _identifiers(parent_columns)
        )
    )


def _identifiers(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join([sql.Identifier(name) for name in names])
