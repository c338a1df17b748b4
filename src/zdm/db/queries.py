"""The server checks and deparses queries over rows of two sides: what a row's elements are, and what its elements are together.

As in `zdm.db.expressions`: one transaction that is rolled back, empty temporary tables with the columns of either side, and a
view over them. The server parses the user's text, stores the tree, and writes it down again with every name qualified; where the
temporary tables' random names stand, there and nowhere else rows are read.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from psycopg import sql

from zdm.db.lexer import not_one_expression
from zdm.db.nodetree import ANOTHER_LATER, ONCE, Tree
from zdm.db.session import Connection, execute_one, fetch_value, search_path_of, transaction
from zdm.errors import Problem
from zdm.model.expression import Volatility
from zdm.model.row_mapping import RowsQuery, RowsRef

Column = tuple[str, str, str | None]
"""Name, type and collation."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A side that a query reads: the name that the user gives its table, its columns, and the key of the one row."""

    alias: str
    columns: Sequence[Column]
    key: Sequence[str] = ()


class _Refused(Exception):  # noqa: N818 - never leaves this file
    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


class QueryChecker:
    """Checks queries over the rows of two sides, on one connection; nothing is left in the database."""

    def __init__(self, conn: Connection, search_path: Sequence[str]) -> None:
        self._conn = conn
        # pg_temp last: the temporary tables' row types must not shadow a type of the user's.
        self._path = search_path_of([*dict.fromkeys(["pg_catalog", *search_path]), "pg_temp"])

    def split(self, one: Rows, text: str, columns: Sequence[Column], label: str) -> RowsQuery | Problem:
        """A SELECT over the one row's columns, with a row for each element, whose columns are assignable to `columns`."""
        why = _unbalanced(text)
        if why:
            return Problem(f"{text!r}: {why}", label, "Write one SELECT over the row's columns.")
        return self._checked(one, None, sql.SQL(text), text, columns, label)

    def join(
        self, one: Rows, many: Rows, texts: Sequence[str], columns: Sequence[Column], label: str
    ) -> RowsQuery | Problem:
        """Aggregates over the elements' columns, and where they have none of that name the row's own, for each of `columns`."""
        for text in texts:
            why = _unbalanced(text)
            if why:
                return Problem(f"{text!r}: {why}", label, "Write one aggregate over the elements' columns.")
        # HAVING makes it one row whatever there is, and anything that is no aggregate an error.
        query = sql.SQL("SELECT {} FROM {} AS {} HAVING true").format(
            sql.SQL(", ").join(sql.SQL("(\n{}\n)").format(sql.SQL(text)) for text in texts),
            sql.Identifier("pg_temp", "_zdm_many"),
            sql.Identifier(many.alias),
        )
        return self._checked(one, many, query, ", ".join(texts), columns, label)

    def _checked(
        self,
        one: Rows,
        many: Rows | None,
        query: sql.Composable,
        source: str,
        columns: Sequence[Column],
        label: str,
    ) -> RowsQuery | Problem:
        try:
            with transaction(self._conn, rollback=True, statement_timeout=timedelta(seconds=30)):
                return self._in_transaction(one, many, query, source, columns)
        except _Refused as refused:
            return Problem(f"{source!r}: {refused.what}", label, refused.remedy)
        except psycopg.Error as error:
            if error.sqlstate is None or self._conn.closed:
                raise
            found = (error.diag.message_primary or str(error)).strip()
            return Problem(
                f"{source!r}: {found} (SQLSTATE {error.sqlstate})", label, error.diag.message_hint or ""
            )

    def _in_transaction(
        self,
        one: Rows,
        many: Rows | None,
        query: sql.Composable,
        source: str,
        columns: Sequence[Column],
    ) -> RowsQuery:
        conn, nonce = self._conn, secrets.token_hex(6)
        tables: dict[str, Rows] = {"one": one} if many is None else {"one": one, "many": many}
        for name, rows in tables.items():
            conn.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(
                    sql.Identifier("pg_temp", f"_zdm_{name}"), _definitions(rows.columns)
                )
            )
        names = [f"zdm_c{number}" for number, _ in enumerate(columns)]
        keys = [f"zdm_k{number}" for number, _ in enumerate(one.key)]
        view = sql.Identifier("pg_temp", "_zdm_query")
        conn.execute(self._path)
        execute_one(
            conn,
            sql.SQL(
                "CREATE TEMPORARY VIEW _zdm_query ({names}) AS SELECT {found} FROM {one} AS {alias}"
                " CROSS JOIN LATERAL (\n{query}\n) AS zdm_found ({columns})"
            ).format(
                names=_identifiers([*keys, *names]),
                found=sql.SQL(", ").join(
                    [
                        *(sql.Identifier(one.alias, name) for name in one.key),
                        *(sql.Identifier("zdm_found", name) for name in names),
                    ]
                ),
                one=sql.Identifier("pg_temp", "_zdm_one"),
                alias=sql.Identifier(one.alias),
                query=query,
                columns=_identifiers(names),
            ),
        )
        tree = self._tree("_zdm_query")
        volatility = self._volatility(tree)
        read = self._read(tables)
        types = [
            row[0]
            for row in conn.execute(
                "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute"
                " WHERE attrelid = 'pg_temp._zdm_query'::regclass AND attnum > %s ORDER BY attnum",
                [len(keys)],
            )
        ]
        # Assigned, as the triggers do.
        conn.execute(
            sql.SQL("CREATE TEMPORARY TABLE _zdm_filled ({})").format(_definitions(columns)),
        )
        execute_one(
            conn,
            sql.SQL("INSERT INTO pg_temp._zdm_filled SELECT {} FROM {}").format(_identifiers(names), view),
        )
        for name in tables:
            conn.execute(
                sql.SQL("ALTER TABLE {} RENAME TO {}").format(
                    sql.Identifier("pg_temp", f"_zdm_{name}"), sql.Identifier(f"_zdm_{nonce}_{name}_")
                )
            )
        conn.execute(search_path_of(["pg_catalog", "pg_temp"]))
        text = str(
            fetch_value(conn, "SELECT pg_catalog.pg_get_viewdef('pg_temp._zdm_query'::regclass)")
        ).rstrip("; \n")
        execute_one(conn, sql.SQL("CREATE TEMPORARY VIEW _zdm_again AS {}").format(sql.SQL(text)))
        if self._tree("_zdm_again").meaning != tree.meaning:
            raise _Refused(
                "it finds an operator through search_path in a place where SQL cannot name it (NULLIF, IS DISTINCT "
                "FROM, CASE, IN over a type of an extension)",
                "Compare with OPERATOR(schema.=), or cast to a built-in type such as text first.",
            )
        parts: list[str | RowsRef] = []
        for index, piece in enumerate(
            re.split(rf"(?:pg_temp(?:_\d+)?\.)?_zdm_{nonce}_(one|many)_", text.strip())
        ):
            if index % 2:
                of = "one" if piece == "one" else "many"
                parts.append(RowsRef(of=of, columns=tuple((name, name) for name in read[piece])))  # type: ignore[arg-type]
            elif piece:
                parts.append(piece)
        return RowsQuery(source=source, parts=tuple(parts), types=tuple(types), volatility=volatility)

    def _tree(self, view: str) -> Tree:
        found = fetch_value(
            self._conn,
            "SELECT ev_action::text FROM pg_catalog.pg_rewrite WHERE ev_class = %s::regclass",
            [f"pg_temp.{view}"],
        )
        return Tree(str(found))

    def _volatility(self, tree: Tree) -> Volatility:
        rows = self._conn.execute(
            "SELECT f.oid::regprocedure::text, f.provolatile::text FROM pg_catalog.pg_proc AS f WHERE f.oid = ANY (%s::oid[])"
            " OR f.oid IN (SELECT o.oprcode FROM pg_catalog.pg_operator AS o WHERE o.oid = ANY (%s::oid[]))"
            " OR f.oid IN (SELECT pg_catalog.unnest(ARRAY[y.typinput, y.typoutput]) FROM pg_catalog.pg_type AS y WHERE y.oid = ANY (%s::oid[]))",
            [sorted(tree.functions), sorted(tree.operators), sorted(tree.converted_to)],
        ).fetchall()
        volatile = sorted(name for name, how in rows if how == "v")
        if volatile or tree.minimum > 1:
            raise _Refused(
                f"{', '.join(volatile) or 'nextval'} is volatile: it gives another value each time",
                "Triggers, backfill and verification must all compute the same value; use immutable functions.",
            )
        other = tree.moments(name for name, _ in rows)
        if other:
            raise _Refused(f"{', '.join(other)} {ANOTHER_LATER}", ONCE)
        stable = tree.minimum == 1 or any(how == "s" for _, how in rows)
        return Volatility.STABLE if stable else Volatility.IMMUTABLE

    def _read(self, tables: dict[str, Rows]) -> dict[str, list[str]]:
        """The columns of each side that are read, in the table's order."""
        rows = self._conn.execute(
            "SELECT c.relname::text, c.relnamespace = pg_catalog.pg_my_temp_schema(), a.attname::text"
            " FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass"
            " JOIN pg_catalog.pg_class AS c ON c.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass"
            " LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0"
            " WHERE r.ev_class = 'pg_temp._zdm_query'::regclass AND c.oid <> r.ev_class ORDER BY a.attnum",
        ).fetchall()
        found: dict[str, list[str]] = {name: [] for name in tables}
        for table, temporary, column in rows:
            name = table.removeprefix("_zdm_")
            if not temporary or name not in tables:
                raise _Refused(
                    f"it reads {table}, which may change without the row", "Use the row's own columns only."
                )
            if column is not None:
                found[name].append(column)
        return found


def _unbalanced(text: str) -> str:
    """Why the text could end what surrounds it; empty if it cannot."""
    return not_one_expression(f"ARRAY[{text}]")


def _identifiers(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _definitions(columns: Sequence[Column]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(
            sql.Identifier(name),
            sql.SQL(type_),
            sql.SQL("" if collation is None else f" COLLATE {collation}"),
        )
        for name, type_, collation in columns
    )
