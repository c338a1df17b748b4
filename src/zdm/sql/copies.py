"""Columns that are copies of another table's: what a row that refers to it looks up there, and how a change there reaches it.

The row that is referred to decides, and both sides lock it: whoever refers to it holds it FOR KEY SHARE, and the copied columns are part
of a unique index while the rollout runs, so that they are key columns to the server and whoever changes one waits. Above READ COMMITTED
a change does not see rows that came since its snapshot. So there is a foreign key of zdm's over reference and copies, ON UPDATE CASCADE:
the server's own trigger looks at what is there now, and raises 40001.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from zdm.model.expression import ColumnRef, Expression
from zdm.model.mapping import FAILED, ColumnGroup, Conflict, Copied, NewColumn, TableMapping
from zdm.model.names import QualifiedName, fit
from zdm.sql.identifiers import all_of, any_of, column, comma, differs, qualified_name
from zdm.sql.sync_conditions import EMPTY, LINES, changed_in, human, part, raising, was
from zdm.sql.templates import dollar_quoted

PARENT, CHILD = "zdm_p", "zdm_c"


def copied_groups(mapping: TableMapping) -> Iterator[tuple[ColumnGroup, Copied]]:
    """The groups of copies, with what they are copies of."""
    for group in mapping.groups:
        if group.copied is not None:
            yield group, group.copied


def looked_up(copied: Copied, name: str, type_: str) -> Expression:
    """What a column of the row that is referred to holds; NULL if there is none."""
    given: tuple[str | ColumnRef, ...] = ()
    for number, (own, _) in enumerate(copied.by):
        given += (", " if number else "", ColumnRef(column=own), f" AS zdm_{number}")
    alike = all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(key, PARENT), column(f"zdm_{n}", "zdm_q"))
        for n, (_, key) in enumerate(copied.by)
    )
    # The references are in a row of their own, where no column of the other table can be meant by a name.
    head = sql.SQL("SELECT {} FROM (SELECT ").format(column(name, PARENT)).as_string(None)
    tail = sql.SQL(") AS zdm_q JOIN {} AS zdm_p ON {}").format(qualified_name(copied.table), alike)
    return Expression(
        source=f"{name} of the row of {copied.table} that {', '.join(own for own, _ in copied.by)} names",
        parts=(head, *given, tail.as_string(None)),
        type=type_,
    )


def refers(mapping: TableMapping, copied: Copied) -> sql.Composable:
    """Whether the statement changed what the row refers to."""
    return any_of(changed_in(mapping, own) for own, _ in copied.by)


def copy(mapping: TableMapping, group: ColumnGroup, copied: Copied, *, update: bool) -> sql.Composable:
    """What gives a row its copies, in the table's own sync functions, once it was decided that it needs them."""
    refuses = group.conflict is Conflict.REFUSE
    own = [sql.SQL("NEW.{}").format(sql.Identifier(name)) for name, _ in copied.by]
    targets = [sql.SQL("NEW.{}").format(sql.Identifier(new.name)) for new in group.new]
    number = sql.SQL(f"zdm_d{group.number}")
    return part(
        "part_copy",
        when=sql.SQL("{} OPERATOR(pg_catalog.=) 1").format(number) if update else sql.SQL("true"),
        keep=sql.SQL("    zdm_try := NEW;") if refuses else EMPTY,
        none=any_of(sql.SQL("{} IS NULL").format(name) for name in own),
        clear=LINES.join(sql.SQL("      {} := NULL;").format(name) for name in targets),
        # One that was not there when the row was written is nobody's yet who would come by this row.
        wrote=any_of([refers(mapping, copied), was(FAILED)]) if update else sql.SQL("true"),
        values=comma(column(name, PARENT) for name in copied.columns),
        targets=comma(targets),
        table=qualified_name(copied.table),
        same=_same(copied, PARENT, "new"),
        note=_note(mapping, group, copied),
        marker=sql.Identifier(mapping.marker),
        stored=LINES.join(
            sql.SQL("          NEW.{0} := OLD.{0};").format(sql.Identifier(new.name)) for new in group.new
        ),
        conflict=_conflict(mapping, group, copied, update=update) if refuses else EMPTY,
        missing=any_of(
            sql.SQL("NEW.{} IS NULL").format(sql.Identifier(new.name)) for new in group.new if new.not_null
        ),
    )


def _conflict(mapping: TableMapping, group: ColumnGroup, copied: Copied, *, update: bool) -> sql.Composable:
    names = ", ".join(human(new.final) for new in group.new)
    given = any_of(sql.SQL("zdm_try.{} IS NOT NULL").format(sql.Identifier(new.name)) for new in group.new)
    if update:
        given = _written(group.new)
    return part(
        "part_conflict_copied",
        given=given,
        differs=any_of(
            differs(
                sql.SQL("zdm_try.{}").format(sql.Identifier(new.name)),
                sql.SQL("NEW.{}").format(sql.Identifier(new.name)),
                new.comparison,
                new.type,
            )
            for new in group.new
        ),
        refuse=raising(
            mapping,
            code="23000",
            message=f"{names} of {mapping.table} is a copy, and what was written is not what the row of {copied.table} says",
            detail=f"It is the {', '.join(map(human, copied.columns))} of the row that "
            f"{', '.join(human(own) for own, _ in copied.by)} names, which decides while a schema migration runs.",
            hint=f"Leave {names} out of the statement, or change {copied.table}.",
            column=group.new[0].name,
        ),
    )


def _written(columns: Sequence[NewColumn]) -> sql.Composable:
    """Whether the statement changed one of them, which hold what was looked up by now."""
    return any_of(
        differs(
            sql.SQL("zdm_try.{}").format(sql.Identifier(new.name)),
            sql.SQL("OLD.{}").format(sql.Identifier(new.name)),
            new.comparison,
            new.type,
        )
        for new in columns
    )


def unfound(group: ColumnGroup, copied: Copied) -> sql.Composable:
    """Raises if a row refers to none that is there, or would have NULL where the new version promises none; for `function_failed`."""
    names = ", ".join(human(own) for own, _ in copied.by)
    some = all_of(sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(own)) for own, _ in copied.by)
    there = sql.SQL("EXISTS (SELECT FROM {} AS zdm_p WHERE {})").format(
        qualified_name(copied.table), _same(copied, PARENT, "new")
    )
    text = "      IF {} THEN RAISE EXCEPTION USING ERRCODE = {}, MESSAGE = {}; END IF;"
    lines: list[sql.Composable] = [
        sql.SQL(text).format(
            all_of([some, sql.SQL("NOT {}").format(there)]),
            sql.Literal("23503"),
            sql.Literal(f"{names} refers to no row of {copied.table}"),
        )
    ]
    lines += [
        sql.SQL(text).format(
            sql.SQL("zdm_try.{} IS NULL").format(sql.Identifier(new.name)),
            sql.Literal("23502"),
            sql.Literal(f"{human(new.final)} would be NULL, and the new version declares it NOT NULL"),
        )
        for new in group.new
        if new.not_null
    ]
    return LINES.join(lines)


def follow(mapping: TableMapping, group: ColumnGroup, copied: Copied) -> dict[str, sql.Composable]:
    """The pieces of the function that carries a change of the other table to the rows that have copies of it."""
    child = qualified_name(mapping.table)
    key: sql.Composable = sql.SQL("    NULL;")
    if not copied.cascades:
        key = part(
            "part_follow_key",
            child=child,
            table=qualified_name(copied.table),
            referring=_same(copied, "old", CHILD),
            there=all_of(
                sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, PARENT), column(name, "old"))
                for _, name in copied.by
            ),
            refuse=raising(
                mapping,
                code="23503",
                message=f"the key of a row of {copied.table} is changed, to which rows of {mapping.table} refer",
                detail="Their foreign key takes nothing along, and until the schema migration is completed it cannot wait for the "
                "end of the transaction.",
                hint="Let the key stay as it is, or change it after cleanup.",
                column=copied.by[0][0],
            ),
        )
    return {
        "child": child,
        "same": _same(copied, "new", CHILD),
        "assign": comma(
            sql.SQL("{} = {}").format(column(new.name), column(name, "new"))
            for new, name in zip(group.new, copied.columns, strict=True)
        ),
        "moved": _changed([name for _, name in copied.by]),
        "key": key,
        "notes": notes(mapping, group.number),
        "buckets": sql.SQL("ARRAY[-1, CASE WHEN {} THEN {} END]").format(
            any_of(sql.SQL("{} IS NULL").format(column(name, "old")) for name in copied.columns),
            _bucket(copied, "new"),
        ),
    }


def _note(mapping: TableMapping, group: ColumnGroup, copied: Copied) -> sql.Composable:
    return part(
        "part_copy_note",
        nothing=any_of(sql.SQL("NEW.{} IS NULL").format(sql.Identifier(new.name)) for new in group.new),
        note=part(
            "note",
            notes=notes(mapping, group.number),
            bucket=sql.SQL("(SELECT {} FROM {} AS zdm_p WHERE {})").format(
                _bucket(copied, PARENT), qualified_name(copied.table), _same(copied, PARENT, "new")
            ),
        ),
    )


def _bucket(copied: Copied, alias: str) -> sql.Composable:
    """Of a row of the other table: by its key alone, as that table has it."""
    return sql.SQL("(pg_catalog.hash_record(ROW({})) OPERATOR(pg_catalog.&) 63)").format(
        comma(column(name, alias) for _, name in copied.by)
    )


def notes(mapping: TableMapping, number: int) -> sql.Identifier:
    """The table in which sessions note that a row got NULL for a copy, and zdm that rows get copies."""
    return sql.Identifier("zdm", f"copies_{mapping.oid}_{number}")


def make_notes(mapping: TableMapping, number: int) -> str:
    """What makes it, whether or not it is there."""
    table = notes(mapping, number)
    return dollar_quoted(
        "copy_notes",
        notes=table,
        called=sql.Literal(table.as_string(None)),
        table=sql.Literal(qualified_name(mapping.table).as_string(None)),
    ).as_string(None)


def begins(mapping: TableMapping) -> list[str]:
    """What notes that rows get copies, in the transaction from which on they do: older snapshots may not see all that had none then."""
    return [
        sql.SQL(
            "UPDATE {} SET noted = pg_catalog.pg_current_xact_id() WHERE bucket OPERATOR(pg_catalog.=) -1"
        )
        .format(notes(mapping, group.number))
        .as_string(None)
        for group, _ in copied_groups(mapping)
    ]


def drop_notes(mapping: TableMapping, number: int) -> str:
    """What drops it, whether or not it is there."""
    return sql.SQL("DROP TABLE IF EXISTS {}").format(notes(mapping, number)).as_string(None)


def watch(
    mapping: TableMapping, group: ColumnGroup, copied: Copied, function: sql.Identifier, *, arrival: bool
) -> sql.Composed:
    """The trigger on the other table.

    Parameters
    ----------
    arrival: on a row that comes when rows may refer to it already, since their foreign key is checked late.
    """
    changed = _changed([*(name for _, name in copied.by), *copied.columns])
    return part(
        "trigger_follow",
        trigger=sql.Identifier(trigger_name(mapping, group, arrival=arrival)),
        event=sql.SQL("INSERT" if arrival else "UPDATE"),
        table=qualified_name(copied.table),
        condition=EMPTY if arrival else sql.SQL("WHEN ({})").format(changed),
        function=function,
    )


def trigger_name(mapping: TableMapping, group: ColumnGroup, *, arrival: bool = False) -> str:
    """What the trigger on the other table is called."""
    return f"!zdm_copy_{mapping.oid}_{group.number}{'_insert' if arrival else ''}"


def index_name(mapping: TableMapping, number: int) -> str:
    """The unique index over the other table's key and copied columns."""
    return fit(f"_zdm_copied_{mapping.oid}_{number}")


def key_name(mapping: TableMapping, number: int) -> str:
    """The foreign key over reference and copies."""
    return fit(f"_zdm_copy_{mapping.oid}_{number}")


def unwatch(mapping: TableMapping) -> list[tuple[QualifiedName, str, str]]:
    """What drops the triggers, whether or not they are there: each table, a trigger of it, and the statement."""
    return [
        (
            copied.table,
            name,
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}")
            .format(sql.Identifier(name), qualified_name(copied.table))
            .as_string(None),
        )
        for group, copied in copied_groups(mapping)
        for arrival in ((False, True) if copied.deferrable else (False,))
        for name in (trigger_name(mapping, group, arrival=arrival),)
    ]


def _same(copied: Copied, parent: str, child: str) -> sql.Composable:
    """A condition over a row of the other table and one of the mapped table: the one refers to the other."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(key, parent), column(own, child))
        for own, key in copied.by
    )


def _changed(names: Sequence[str]) -> sql.Composable:
    old, new = (comma(column(name, alias) for name in names) for alias in ("old", "new"))
    return sql.SQL("pg_catalog.record_image_ne(ROW({}), ROW({}))").format(old, new)
