"""Lists that one row holds: the usual forms, and what they are in SQL in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql
from pydantic import Field, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, fit
from zdm.model.step import Phase, Stage, Step
from zdm.model.table import Column, Table
from zdm.operations import ddl
from zdm.operations.add_foreign_key import Reaction
from zdm.operations.params import Name, Sql
from zdm.sql.identifiers import without_length


class ListColumn(Value):
    """A column that holds a list, or part of one."""

    column: Name = Field(description="the column")
    down: Sql | None = Field(
        default=None,
        description="its value: an aggregate over the elements' columns and, where they have none of that name, the row's own",
    )
    keep: bool = Field(
        default=False, description="it stays in the new version, because it holds other things as well"
    )
    empty: Sql | None = Field(
        default=None,
        description="what it holds in rows that the new version inserts, until they have elements; needed where it is NOT NULL without a default",
    )


class Form(Value):
    """How a list is held. The elements are a place, or a name, and a value; a value alone for a set."""

    json_array: Name | None = Field(
        default=None, description="a column with a JSON array: elements are [place, value], or [value]"
    )
    json_object: Name | None = Field(
        default=None, description="a column with a JSON object: elements are [name, value]"
    )
    array: Name | None = Field(
        default=None, description="a column with an array: elements are [place, value], or [value]"
    )
    delimited: Name | None = Field(
        default=None, description="a column with a delimited text: elements are [place, value], or [value]"
    )
    separator: str = Field(default=",", min_length=1, description="what stands between delimited values")
    columns: tuple[Name, ...] | dict[str, Name] | None = Field(
        default=None,
        description="columns of which each holds one, or NULL: elements are [number, value], or [name, value] of names to columns",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Form:
        given = [self.json_array, self.json_object, self.array, self.delimited, self.columns]
        if sum(found is not None for found in given) != 1 or self.columns in ((), {}):
            raise ValueError("it is one of json_array, json_object, array, delimited, columns")
        return self

    @property
    def held(self) -> tuple[str, ...]:
        """The columns that hold the list."""
        if self.columns is not None:
            return tuple(self.columns.values() if isinstance(self.columns, dict) else self.columns)
        one = self.json_array or self.json_object or self.array or self.delimited
        assert one is not None
        return (one,)

    def types(self, table: Table, count: int) -> list[str]:
        """What the elements' columns are, where the migration does not say."""
        first = table.column(self.held[0])
        named = self.json_object is not None or isinstance(self.columns, dict)
        value = "text"
        if first is not None and self.columns is not None:
            value = first.type
        elif first is not None and self.array is not None:
            value = first.type.removesuffix("[]")
        return [value] if count == 1 else ["text" if named else "integer", value]

    def expand(
        self,
        elements: Sequence[tuple[str, str]],
        key: Sequence[str],
        held: Sequence[Column],
        problems: list[Problem],
        *,
        defaults_say_nothing: bool = False,
    ) -> tuple[str | None, list[str], str | None]:
        """A SELECT of the elements, an aggregate for each held column, and the column that says the order.

        Parameters
        ----------
        elements: names and types of the elements' columns.
        key: which tell them apart.
        defaults_say_nothing: a column that holds its default has no element, where each of several holds one.
        """
        alone = len(elements) == 1
        if len(elements) > 2 or (alone and (self.json_object is not None or self.columns is not None)):
            wanted = "[name, value]" if self.json_object is not None else "[place, value]"
            problems.append(
                Problem(
                    f"`elements` has {len(elements)} columns, and {wanted} are needed",
                    remedy="Say it with `up`, if an element fills others.",
                )
            )
            return None, [], None
        value, type_ = elements[-1]
        place = None if alone else elements[0][0]
        if self.columns is not None:
            assert place is not None
            return self._columns(held, place, value, type_, defaults_say_nothing)
        ordered = None if self.json_object is not None else place
        pieces = self._pieces(
            held[0], type_, value, [] if place is None else [place, *(n for n in key if n != place)]
        )
        if pieces is None:
            problems.append(
                Problem(
                    f"column {held[0].name} is {held[0].type}",
                    remedy="Say it with `up` and `columns`, if the list is only a part of it.",
                )
            )
            return None, [], None
        source, taken, joined = pieces
        if alone:
            up = ddl.text("SELECT {v} FROM {s} AS zdm_l (v)", v=taken, s=source)
        elif self.json_object is not None:
            up = ddl.text("SELECT k, {v} FROM {s} AS zdm_l (k, v)", v=taken, s=source)
        else:
            up = ddl.text("SELECT k, {v} FROM {s} WITH ORDINALITY AS zdm_l (v, k)", v=taken, s=source)
        return up, [ddl.text("{j}", j=_unless_empty(joined, held[0], self.nothing))], ordered

    @property
    def nothing(self) -> str | None:
        """A list without elements, as the column would hold it; None where several columns hold one each."""
        if self.columns is not None:
            return None
        if self.json_array is not None:
            return "'[]'"
        return "''" if self.delimited is not None else "'{}'"

    def _pieces(
        self, held: Column, type_: str, value: str, places: Sequence[str]
    ) -> tuple[sql.Composable, sql.Composable, sql.Composable] | None:
        """Where elements come from, what is taken of each as ``v``, and the aggregate that gives the column back."""
        column, v = ddl.ident(held.name), ddl.ident(value)
        # Of two in the same place the key decides.
        by = sql.SQL(" ORDER BY {}").format(ddl.idents(places or [value]))
        cast = sql.SQL("CAST(v AS {})").format(ddl.raw(type_))
        if self.array is not None:
            if not held.type.endswith("[]"):
                return None
            joined = sql.SQL("array_agg({}{})").format(v, by)
            return (
                sql.SQL("unnest({})").format(column),
                sql.SQL("v"),
                sql.SQL("CAST({} AS {})").format(joined, ddl.raw(held.type)),
            )
        if self.delimited is not None:
            if held.type != "text" and not held.type.startswith("character varying"):
                return None
            separator = sql.Literal(self.separator)
            source = sql.SQL("unnest(string_to_array({}, {}))").format(column, separator)
            joined = sql.SQL("string_agg(CAST({} AS text), {}{})").format(v, separator, by)
            return source, sql.SQL("v") if type_ == "text" else _assigned(cast, type_), joined
        if held.type not in {"json", "jsonb"}:
            return None
        text = type_ not in {"json", "jsonb"}
        kind, suffix = ddl.raw(held.type), ddl.raw("_text" if text else "")
        taken = sql.SQL("v") if not text or type_ == "text" else _assigned(cast, type_)
        if self.json_object is not None:
            source = sql.SQL("{}_each{}({})").format(kind, suffix, column)
            return source, taken, sql.SQL("{}_object_agg({}, {})").format(kind, ddl.ident(places[0]), v)
        source = sql.SQL("{}_array_elements{}({})").format(kind, suffix, column)
        return source, taken, sql.SQL("{}_agg({}{})").format(kind, v, by)

    def _columns(
        self, held: Sequence[Column], place: str, value: str, type_: str, defaults_say_nothing: bool
    ) -> tuple[str, list[str], str | None]:
        names: list[sql.Composable] = (
            [sql.Literal(name) for name in self.columns]
            if isinstance(self.columns, dict)
            else [sql.Literal(number) for number, _ in enumerate(held, 1)]
        )
        rows = sql.SQL(", ").join(
            sql.SQL("({}, {})").format(name, _as_type(_held(c, defaults_say_nothing), c.type, type_))
            for name, c in zip(names, held, strict=True)
        )
        up = ddl.text("SELECT k, v FROM (VALUES {r}) AS zdm_l (k, v) WHERE v IS NOT NULL", r=rows)
        downs = [
            ddl.text(
                "{j}",
                j=_unless_empty(
                    _as_type(
                        sql.SQL("(array_agg({}) FILTER (WHERE {} = {}))[1]").format(
                            ddl.ident(value), ddl.ident(place), name
                        ),
                        type_,
                        c.type,
                    ),
                    c,
                    None,
                ),
            )
            for name, c in zip(names, held, strict=True)
        ]
        return up, downs, None


def _assigned(cast: sql.Composable, type_: str) -> sql.Composable:
    """A value as the elements' column has it; one that is too long stays so, and is refused where it is stored."""
    return sql.SQL("v") if type_.startswith(("character", "varchar")) else cast


def _held(c: Column, default_says_nothing: bool) -> sql.Composable:
    """What a column that holds one element says of it."""
    found = ddl.ident(c.name)
    if default_says_nothing and c.default is not None:
        return sql.SQL("NULLIF({}, {})").format(found, ddl.raw(c.default))
    return found


def _as_type(value: sql.Composable, is_: str, to: str) -> sql.Composable:
    """A value of one type as another one; what is too long for it stays so, and is refused where it is stored."""
    is_, to = without_length(is_), without_length(to)
    if is_ == to or {is_, to} <= {"text", "character varying"}:
        return value
    return sql.SQL("CAST({} AS {})").format(value, ddl.raw(to))


def _unless_empty(joined: sql.Composable, held: Column, nothing: str | None) -> sql.Composable:
    """What the column holds where there are no elements: its default; NULL if it has none and may be NULL."""
    empty = held.default or (nothing if held.not_null else None)
    return joined if empty is None else sql.SQL("COALESCE({}, {})").format(joined, ddl.raw(empty))


def foreign_key_of(
    table: QualifiedName,
    key: Mapping[str, str],
    references: QualifiedName,
    reaction: Reaction,
    label: str,
    *,
    logged: bool,
) -> list[Step]:
    """The steps of a foreign key of a table that a mapping makes, after the data.

    Parameters
    ----------
    logged: a changed key has to get through before the reconciler has taken the rows along.
    """
    name = fit(f"{table.name}_{'_'.join(key)}_fkey")
    changed = " ON UPDATE CASCADE" if logged else ""
    body = sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {}" + changed).format(
        ddl.idents(key), ddl.table(references), ddl.idents(key.values()), ddl.raw(reaction.upper())
    )
    return ddl.checked_constraint(
        step_id=f"migration.{table}.add_foreign_key.{name}",
        phase=Phase.MIGRATION,
        stage=Stage.INDEXES,
        operation=label,
        on=table,
        name=name,
        body=body,
        references=references,
        naive="create-table-with-foreign-key",
    )
