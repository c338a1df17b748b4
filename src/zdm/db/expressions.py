"""The server checks, types and deparses the user's expressions; see docs/architecture.md, "From file to rows".

All of it happens in one transaction that is rolled back, on an empty temporary table that has the version's columns under
the names the user writes. Each expression becomes ``CHECK ((expression) IS NULL)``: the server parses it, refuses what
cannot be computed from one row (subqueries, aggregates, window and set-returning functions), and stores the tree. Then the
columns are renamed to random tokens and the server writes the tree down again, every name qualified: where a token stands,
there and nowhere else is a column.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from zdm.db.lexer import not_one_expression
from zdm.db.nodetree import ANOTHER_LATER, ONCE, Tree
from zdm.db.session import Connection, execute_one, fetch_value, search_path_of, transaction
from zdm.errors import Problem, ZdmError
from zdm.model.expression import ColumnRef, Expression, Volatility
from zdm.model.mapping import ColumnGroup, NewColumn, OldColumn, TableMapping
from zdm.model.plan import Roundtrip
from zdm.sql.identifiers import differs
from zdm.sql.partitions import over_family


@dataclass(frozen=True, slots=True)
class CheckColumn:
    """A column that expressions may mention: the name the user writes, and the physical one it stands for.

    Parameters
    ----------
    own: as `ColumnRef` has it.
    """

    shown_name: str
    physical_name: str
    type: str
    collation: str | None = None
    own: bool = False


class Derived(Enum):
    """When the value of an expression is derived again, by triggers, backfill and verification."""

    ALWAYS = auto()
    BY_ROW = auto()  # without a column it is given once, and the row's own from then on


@dataclass(frozen=True, slots=True)
class Request:
    """One expression to check.

    Parameters
    ----------
    label: where it comes from, for `Problem.where`.
    text: as the user wrote it.
    assign_to_type: the column type its value must be assignable to, or None.
    assign_collation: that column's collation, if it differs from the type's.
    allow_volatile: volatile functions are accepted (a column default).
    derived: the value is derived again, in order to be compared, so that it must not depend on the moment: in any case, or if it is by what the row says.
    """

    label: str
    text: str
    assign_to_type: str | None = None
    assign_collation: str | None = None
    allow_volatile: bool = False
    derived: Derived | None = None


class ExpressionChecker:
    """Checks expressions over the columns of one row, on one connection.

    The role needs the TEMPORARY privilege on the database.
    """

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.user_functions: dict[str, tuple[str, ...]] = {}
        """By request label: the user-defined functions its expressions call, qualified, with argument types."""

    def check(
        self,
        columns: Sequence[CheckColumn],
        requests: Sequence[Request],
        table_alias: str,
        search_path: Sequence[str],
    ) -> list[Expression | Problem]:
        """One answer for each request, in order. Nothing is left in the database.

        Parameters
        ----------
        columns: the version's columns, shown names all different.
        table_alias: the table's name, so that ``table.column`` works in the expressions.
        search_path: where unqualified names of the user's are looked up, after pg_catalog.
        """
        self.user_functions = {}
        if not requests:
            return []
        with transaction(self.conn, rollback=True, statement_timeout=timedelta(seconds=30)):
            return _Check(self.conn, columns, table_alias, search_path, self.user_functions).run(requests)


class _Refused(Exception):  # noqa: N818 - never leaves this file
    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


_TARGET: Final = "_zdm_target"
_TYPED: Final = "_zdm_typed"


class _Check:
    """One transaction of an `ExpressionChecker`."""

    def __init__(
        self,
        conn: Connection,
        columns: Sequence[CheckColumn],
        alias: str,
        search_path: Sequence[str],
        functions: dict[str, tuple[str, ...]],
    ) -> None:
        self.conn, self.columns, self.functions = conn, columns, functions
        self.table = sql.Identifier("pg_temp", alias)
        # pg_temp last: the temporary table's row type must not shadow a type of the user's.
        self.user_path = search_path_of([*dict.fromkeys(["pg_catalog", *search_path]), "pg_temp"])
        self.pinned_path = search_path_of(["pg_catalog", "pg_temp"])
        self.nonce = secrets.token_hex(6)
        self.oid = 0
        self.trees: dict[int, Tree] = {}

    def run(self, requests: Sequence[Request]) -> list[Expression | Problem]:
        definitions = [
            sql.SQL("{} {}{}").format(sql.Identifier(c.shown_name), sql.SQL(c.type), _collate(c.collation))
            for c in self.columns
        ]
        self.conn.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(self.table, sql.SQL(", ").join(definitions))
        )
        self.oid = fetch_value(
            self.conn, "SELECT %s::regclass::oid::int8", (self.table.as_string(self.conn),)
        )
        problems: dict[int, Problem] = {}
        facts: dict[int, tuple[str, Volatility]] = {}
        for number, request in enumerate(requests):
            try:
                facts[number] = self._one(number, request)
            except _Refused as refused:
                problems[number] = Problem(f"{request.text!r}: {refused.what}", request.label, refused.remedy)
        texts = self._deparsed()
        return [
            problems[number] if number in problems else self._answer(number, request, facts, texts)
            for number, request in enumerate(requests)
        ]

    def _answer(
        self,
        number: int,
        request: Request,
        facts: Mapping[int, tuple[str, Volatility]],
        texts: Mapping[int, str],
    ) -> Expression | Problem:
        type_, volatility = facts[number]
        try:
            parts = self._cut(number, texts[number])
        except _Refused as refused:
            return Problem(f"{request.text!r}: {refused.what}", request.label, refused.remedy)
        return Expression(source=request.text, parts=parts, type=type_, volatility=volatility)

    # -- one expression --

    def _one(self, number: int, request: Request) -> tuple[str, Volatility]:
        """Leave the expression behind as a constraint; return its type and volatility, or raise `_Refused`."""
        why = not_one_expression(request.text)
        if why:
            raise _Refused(why, "Write one SQL expression over the row's columns, as in a SELECT list.")
        with self._savepoint(then=self.user_path), self._translated():
            # The text is the user's. It was checked to be balanced, so that it cannot end what surrounds it;
            # exactly one statement is accepted; and what the server understood is looked at, not what was sent.
            expression = sql.SQL("(\n{}\n)").format(sql.SQL(request.text))
            self._constrain(f"_zdm_{number}", expression)
            tree = self.trees[number] = self._tree(f"_zdm_{number}")
            self._refuse_columns(tree)
            volatility = self._volatility(request, tree)
            with self._savepoint(keep=False):
                type_ = self._type(expression)
                self._assign(request, expression)
        return type_, volatility

    def _constrain(self, name: str, expression: sql.Composable) -> None:
        execute_one(
            self.conn,
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} IS NULL)").format(
                self.table, sql.Identifier(name), expression
            ),
        )

    def _tree(self, name: str) -> Tree:
        row = self.conn.execute(
            "SELECT conbin::text, (SELECT count(*) FROM pg_catalog.pg_constraint o WHERE o.conrelid = c.conrelid AND o.contype = 'c'"
            " AND o.conname NOT LIKE '\\_zdm\\_%%') FROM pg_catalog.pg_constraint c"
            " WHERE c.conrelid = %s AND c.conname = %s",
            (self.oid, name),
        ).fetchone()
        if row is None or row[1]:
            raise _Refused("it is more than one expression")
        return Tree(row[0])

    def _refuse_columns(self, tree: Tree) -> None:
        if 0 in tree.attributes:
            raise _Refused("it uses the whole row", "Name the columns it needs.")
        if any(number < 0 for number in tree.attributes):
            raise _Refused("it uses a system column, which the new version of a row does not keep")

    def _volatility(self, request: Request, tree: Tree) -> Volatility:
        rows = self.conn.execute(
            _FUNCTIONS,
            {
                "functions": sorted(tree.functions),
                "operators": sorted(tree.operators),
                "domains": sorted(tree.domains),
                "read": sorted(tree.converted_to),
                "written": sorted(tree.types if tree.converted_to else ()),
            },
        ).fetchall()
        found = {"i": 0, "s": 1, "v": 2}
        worst = max([tree.minimum, *(found[volatile] for _, volatile, _ in rows)])
        mine = {signature for signature, _, user_defined in rows if user_defined}
        if mine:
            self.functions[request.label] = tuple(sorted({*self.functions.get(request.label, ()), *mine}))
        if worst == 2 and not request.allow_volatile:
            names = sorted({signature for signature, volatile, _ in rows if volatile == "v"}) or ["nextval"]
            raise _Refused(
                f"{', '.join(names)} is volatile: it gives another value each time",
                "Triggers, backfill and verification must all compute the same value; use immutable functions.",
            )
        if request.derived is Derived.ALWAYS or (request.derived is Derived.BY_ROW and tree.attributes):
            other = tree.moments(signature for signature, _, _ in rows)
            if other:
                raise _Refused(f"{', '.join(other)} {ANOTHER_LATER}", ONCE)
        return (Volatility.IMMUTABLE, Volatility.STABLE, Volatility.VOLATILE)[worst]

    def _type(self, expression: sql.Composable) -> str:
        execute_one(
            self.conn,
            sql.SQL("CREATE TEMPORARY TABLE {} AS SELECT {} AS v FROM {} WITH NO DATA").format(
                sql.Identifier(_TYPED), expression, self.table
            ),
        )
        self.conn.execute(self.pinned_path)
        name: str = fetch_value(
            self.conn,
            "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum = 1",
            (f"pg_temp.{_TYPED}",),
        )
        return name

    def _assign(self, request: Request, expression: sql.Composable) -> None:
        if request.assign_to_type is None:
            return
        value = sql.Identifier(f"_zdm_value_{self.nonce}")
        target = sql.Identifier("pg_temp", _TARGET)
        self.conn.execute(
            sql.SQL("{}; CREATE TEMPORARY TABLE {} ({} {}{})").format(
                self.user_path,
                target,
                value,
                sql.SQL(request.assign_to_type),
                _collate(request.assign_collation),
            )
        )
        execute_one(
            self.conn, sql.SQL("UPDATE {} SET {} = {} FROM {}").format(target, value, expression, self.table)
        )

    # -- writing the trees down --

    def _deparsed(self) -> dict[int, str]:
        renames = [
            sql.SQL("ALTER TABLE {} RENAME {} TO {}").format(
                self.table, sql.Identifier(column.shown_name), sql.Identifier(self._token(position))
            )
            for position, column in enumerate(self.columns)
        ]
        self.conn.execute(sql.SQL("; ").join([self.pinned_path, *renames]))
        rows = self.conn.execute(
            "SELECT conname, pg_catalog.pg_get_expr(conbin, conrelid) FROM pg_catalog.pg_constraint"
            " WHERE conrelid = %s AND contype = 'c'",
            (self.oid,),
        ).fetchall()
        return {
            int(name.removeprefix("_zdm_")): _unwrapped(text)
            for name, text in rows
            if name.startswith("_zdm_")
        }

    def _token(self, position: int) -> str:
        return f"_zdm_{self.nonce}_{position}_"

    def _cut(self, number: int, text: str) -> tuple[str | ColumnRef, ...]:
        """Cut the server's text at the tokens, after making sure that it means the same when it is read again."""
        with self._savepoint(), self._translated():
            self._constrain(f"_zdm_again_{number}", sql.SQL("({})").format(sql.SQL(text)))
            if self._tree(f"_zdm_again_{number}").meaning != self.trees[number].meaning:
                raise _Refused(
                    "it finds an operator through search_path in a place where SQL cannot name it (NULLIF, IS DISTINCT "
                    "FROM, CASE, IN over a type of an extension)",
                    "Compare with OPERATOR(schema.=), or cast to a built-in type such as text first.",
                )
        parts: list[str | ColumnRef] = []
        for index, piece in enumerate(re.split(rf"_zdm_{self.nonce}_(\d+)_", text)):
            if index % 2:
                found = self.columns[int(piece)]
                parts.append(ColumnRef(column=found.physical_name, own=found.own))
            elif piece:
                parts.append(piece)
        return tuple(parts)

    # -- errors --

    @contextmanager
    def _savepoint(self, *, keep: bool = True, then: sql.Composable | None = None) -> Iterator[None]:
        begin = sql.SQL("SAVEPOINT _zdm_check")
        self.conn.execute(begin if then is None else sql.SQL("{}; {}").format(begin, then))
        try:
            yield
        except BaseException:
            if not self.conn.closed:
                self.conn.execute("ROLLBACK TO SAVEPOINT _zdm_check; RELEASE SAVEPOINT _zdm_check")
            raise
        end: LiteralString = "RELEASE SAVEPOINT _zdm_check"
        self.conn.execute(end if keep else f"ROLLBACK TO SAVEPOINT _zdm_check; {end}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the server's refusal into ours, in its own words."""
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate is None or self.conn.closed:
                raise
            raise self._refusal(error) from None

    def _refusal(self, error: psycopg.Error) -> _Refused:
        message = (error.diag.message_primary or str(error)).strip()
        for ours in (_TARGET, _TYPED, f"_zdm_value_{self.nonce}"):
            message = message.replace(f'relation "{ours}"', "the column").replace(
                f'column "{ours}"', "the column"
            )
        message = re.sub(r"\b(?:in|for) check constraints?\b", "in an expression over one row", message)
        remedy = error.diag.message_hint or ""
        if error.sqlstate == "42703":
            names = ", ".join(c.shown_name for c in self.columns)
            remedy = f"The columns are {names}." if names else "It cannot read any column here."
        elif error.sqlstate == "42804" and "is of type" in message:
            remedy = "Cast the expression to the column's type."
        elif error.sqlstate in {"42883", "42P01", "42704"} and not remedy:
            remedy = "Qualify names that are not in the target schema, public or pg_catalog."
        return _Refused(f"{message} (SQLSTATE {error.sqlstate})", remedy)


# Functions by how the tree mentions them: called, behind an operator, in a domain's checks, reading or writing a type's text.
_FUNCTIONS = """
WITH RECURSIVE domains (type) AS (
  SELECT unnest(%(domains)s::oid[])
  UNION SELECT y.typbasetype FROM domains d JOIN pg_catalog.pg_type y ON y.oid = d.type WHERE y.typtype = 'd'
), called (oid) AS (
  SELECT unnest(%(functions)s::oid[])
  UNION SELECT o.oprcode FROM pg_catalog.pg_operator o WHERE o.oid = ANY (%(operators)s::oid[])
  UNION SELECT y.typinput FROM pg_catalog.pg_type y WHERE y.oid = ANY (%(read)s::oid[])
  UNION SELECT y.typoutput FROM pg_catalog.pg_type y WHERE y.oid = ANY (%(written)s::oid[])
  UNION SELECT p.refobjid FROM domains d JOIN pg_catalog.pg_constraint c ON c.contypid = d.type
    JOIN pg_catalog.pg_depend p ON p.classid = 'pg_catalog.pg_constraint'::regclass AND p.objid = c.oid
     AND p.refclassid = 'pg_catalog.pg_proc'::regclass
)
SELECT CASE WHEN n.nspname = 'pg_catalog' THEN '' ELSE pg_catalog.quote_ident(n.nspname) || '.' END
    || pg_catalog.quote_ident(f.proname) || '(' || pg_catalog.pg_get_function_identity_arguments(f.oid) || ')',
  f.provolatile::text,
  f.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
    WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')
FROM pg_catalog.pg_proc f JOIN called c ON c.oid = f.oid JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
"""


def _collate(collation: str | None) -> sql.Composable:
    return sql.SQL("") if collation is None else sql.SQL(" COLLATE {}").format(sql.SQL(collation))


def _unwrapped(text: str) -> str:
    """What stands in ``(… IS NULL)``. The server always writes the outer parentheses."""
    prefix, suffix = "(", " IS NULL)"
    if not (text.startswith(prefix) and text.endswith(suffix)):
        raise ZdmError(f"the server wrote an expression in a form that zdm does not know: {text!r}")
    inner = text[len(prefix) : -len(suffix)]
    return "NULL" if inner == "NULL::unknown" else inner.strip()


# --- evaluating -------------------------------------------------------------------------------------------------------


def on_nulls(conn: Connection, columns: Mapping[str, str], expression: Expression) -> bool | None:
    """Whether the expression over all-NULL columns (physical name to type) is NULL; None if it raises."""
    used = expression.columns
    nulls = [sql.SQL("NULL::{} AS {}").format(sql.SQL(columns[name]), sql.Identifier(name)) for name in used]
    with transaction(conn, rollback=True, statement_timeout=timedelta(seconds=5)):
        try:
            return bool(
                fetch_value(
                    conn,
                    sql.SQL("SELECT {} IS NOT DISTINCT FROM NULL FROM (SELECT {}) AS _zdm_nulls").format(
                        expression.render(lambda name: sql.Identifier("_zdm_nulls", name)),
                        sql.SQL(", ").join(nulls),
                    ),
                )
            )
        except psycopg.Error as error:
            if error.sqlstate is None or conn.closed:
                raise
            return None


@dataclass(frozen=True, slots=True)
class Measured:
    """A `Roundtrip`, and whether every row was measured or only a sample."""

    roundtrip: Roundtrip
    complete: bool


def measure_roundtrip(
    conn: Connection,
    mapping: TableMapping,
    group: ColumnGroup,
    sample: int = 100_000,
    timeout: timedelta = timedelta(seconds=60),
) -> Measured:
    """Measure ``down(up(x)) = x`` on real rows, before the new columns exist.

    A function in pg_temp assigns values to variables of the columns' types exactly as the triggers will (a value too long
    for its column raises), row by row, so a row on which `up` or `down` raises is counted, named and passed over. The
    table is only read. Measured are all rows of a table with up to about `sample`, else pages taken at random; where that
    takes longer than `timeout`, a tenth.

    Returns
    -------
    Measured: ``failed`` rows raised, or `up` gave NULL for a column that the new version declares NOT NULL.
    """
    size = max(sample, 1)
    while True:
        try:
            return _measure(conn, mapping, group, size, timeout)
        except psycopg.errors.QueryCanceled:
            if size <= 100:
                raise
            size //= 10


def _measure(
    conn: Connection, mapping: TableMapping, group: ColumnGroup, size: int, timeout: timedelta
) -> Measured:
    estimated = _estimate(conn, mapping)
    everything = estimated <= size * 1.2
    table = sql.Identifier(mapping.table.schema_, mapping.table.name)
    source = sql.SQL("{} LIMIT {}").format(table, sql.Literal(size * 2 + 1))
    if not everything:
        share = max(0.0001, min(100.0, 100.0 * size / estimated))
        source = sql.SQL("{} TABLESAMPLE SYSTEM ({}) LIMIT {}").format(
            table, sql.Literal(share), sql.Literal(size * 2 + 1)
        )
    with transaction(conn, isolation="repeatable read", statement_timeout=timeout, rollback=True):
        conn.execute(_roundtrip_function(mapping, group, source))
        row = conn.execute("SELECT * FROM pg_temp._zdm_roundtrip()").fetchone()
    assert row is not None
    rows, lost, failed, keys = row
    measured = Roundtrip(
        table=mapping.table,
        group=group.name,
        rows=rows,
        lost=lost,
        failed=failed,
        sample_keys=tuple(keys),
        declared_lossy=group.lossy,
    )
    return Measured(measured, everything and rows <= size * 2)


_ROWS = """
SELECT sum(pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::float8
  * CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples / c.relpages ELSE 50 END)
FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid IN {family}
"""


def _estimate(conn: Connection, mapping: TableMapping) -> float:
    """Rows by the table's present size and the density it had when it was last analysed; 50 a page if it never was."""
    found = fetch_value(conn, over_family(_ROWS, mapping.oid))
    return float(found or 0)


def _roundtrip_function(mapping: TableMapping, group: ColumnGroup, source: sql.Composable) -> sql.Composed:
    """A function that walks over the rows, with one variable for each new column that is computed on the way."""
    new = _needed(mapping, group)
    variables = {column.name: sql.Identifier(f"_zdm_new_{number}") for number, column in enumerate(new)}
    derived = {column.name: sql.Identifier(f"_zdm_old_{number}") for number, column in enumerate(group.old)}
    read: dict[str, str] = {}

    def stored(name: str) -> sql.Composable:
        return sql.Identifier("_zdm_row", read.setdefault(name, f"c{len(read)}"))

    def either(name: str) -> sql.Composable:
        return variables.get(name) or stored(name)

    declarations: list[sql.Composable] = []
    body: list[sql.Composable] = []
    for column in new:
        value = column.up.render(stored) if column.up is not None else sql.SQL("NULL")
        declarations.append(_declare(variables[column.name], column, value))
        if column.not_null and column.up is not None:
            body.append(
                sql.SQL("IF {} IS NULL THEN RAISE not_null_violation; END IF;").format(variables[column.name])
            )
    conditions: list[sql.Composable] = []
    for old in group.old:
        if old.down is None:
            continue
        declarations.append(_declare(derived[old.name], old, old.down.render(either)))
        conditions.append(differs(stored(old.name), derived[old.name], old.comparison, old.type))
    key = _key(mapping)
    columns = [
        sql.SQL("t.{} AS {}").format(sql.Identifier(name), sql.Identifier(alias))
        for name, alias in read.items()
    ]
    code = sql.SQL(
        """
DECLARE
  _zdm_row record;
  _zdm_rows bigint := 0; _zdm_lost bigint := 0; _zdm_failed bigint := 0; _zdm_keys text[] := '{{}}';
BEGIN
  FOR _zdm_row IN SELECT {key} AS k{columns} FROM (SELECT *, ctid AS _zdm_ctid FROM {source}) AS t LOOP
    _zdm_rows := _zdm_rows + 1;
    BEGIN
      -- Declared with their values: a variable of a domain that refuses NULL cannot be empty for a moment.
      DECLARE
        {declarations}
      BEGIN
        {body}
        IF {condition} THEN
          _zdm_lost := _zdm_lost + 1;
          IF pg_catalog.cardinality(_zdm_keys) < 5 THEN _zdm_keys := _zdm_keys || _zdm_row.k; END IF;
        END IF;
      END;
    EXCEPTION WHEN OTHERS THEN
      _zdm_failed := _zdm_failed + 1;
      IF pg_catalog.cardinality(_zdm_keys) < 5 THEN _zdm_keys := _zdm_keys || _zdm_row.k; END IF;
    END;
  END LOOP;
  RETURN QUERY SELECT _zdm_rows, _zdm_lost, _zdm_failed, _zdm_keys;
END
"""
    ).format(
        declarations=sql.SQL("\n        ").join(declarations),
        key=key,
        columns=sql.SQL("").join(sql.SQL(", {}").format(column) for column in columns),
        source=source,
        body=sql.SQL("\n        ").join(body),
        condition=sql.SQL(" OR ").join(conditions) if conditions else sql.SQL("false"),
    )
    return sql.SQL(
        "CREATE FUNCTION pg_temp._zdm_roundtrip()"
        " RETURNS TABLE (n bigint, lost bigint, failed bigint, keys text[]) LANGUAGE plpgsql AS {}"
    ).format(sql.Literal(code.as_string()))


def _needed(mapping: TableMapping, group: ColumnGroup) -> list[NewColumn]:
    """The new columns of the group, and those of other groups that its `down`s read."""
    read = set(group.reads_of_down)
    return [
        new
        for other in mapping.groups
        for new in other.new
        if other.number == group.number or new.name in read
    ]


def _declare(variable: sql.Identifier, column: NewColumn | OldColumn, value: sql.Composable) -> sql.Composed:
    # Without a collation: plpgsql's variables take one, but comparing and assigning do not depend on it.
    return sql.SQL("{} {} := {};").format(variable, sql.SQL(column.type), value)


def _key(mapping: TableMapping) -> sql.Composable:
    if not mapping.key:
        return sql.SQL("'ctid=' || t._zdm_ctid::text")
    pairs = [
        sql.SQL("{} || coalesce(t.{}::text, 'NULL')").format(sql.Literal(f"{name}="), sql.Identifier(name))
        for name in mapping.key
    ]
    return sql.SQL(" || ', ' || ").join(pairs)
