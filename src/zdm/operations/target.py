"""The table that rows of another one go to: made by the migration, or there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, fit
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import SideKind, SyncMode, WithoutOldForm
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.model.table import Column, Table
from zdm.operations import ddl
from zdm.operations.add_foreign_key import ForeignKey
from zdm.operations.base import Context, Draft
from zdm.operations.create_table import Check, CreateTable, Privilege, TableColumn, UniqueKey
from zdm.operations.params import Name, find_shape
from zdm.operations.rows import DraftMirrored, DraftSide, Reference
from zdm.operations.shape import TableShape
from zdm.sql.templates import dollar_quoted


class MadeTable(Value):
    """What a migration file says of a table to make, besides the key and the mapped columns."""

    columns: tuple[TableColumn, ...] = Field(default=(), description="columns of its own")
    unique: tuple[UniqueKey, ...] = Field(default=(), description="further unique constraints")
    checks: tuple[Check, ...] = Field(default=(), description="check constraints")
    foreign_keys: tuple[ForeignKey, ...] = Field(default=(), description="foreign keys to other tables")
    indexes: tuple[tuple[Name, ...], ...] = Field(default=(), description="columns of further indexes")
    comment: str | None = Field(default=None, description="its comment")
    grants: dict[Name, tuple[Privilege, ...]] = Field(
        default_factory=dict, description="privileges by role; PUBLIC is the role of everybody"
    )

    @property
    def referenced(self) -> tuple[str, ...]:
        """The tables that its foreign keys point at."""
        return tuple(key.references.table for key in self.foreign_keys)

    @property
    def belongs(self) -> bool:
        """Whether its key gets a foreign key to the other table besides these."""
        return False


@dataclass(frozen=True, slots=True)
class Target:
    """The new side of a mapping.

    Parameters
    ----------
    made: what makes the table; None if it exists.
    owner: the role that owns the other table, and so this one.
    label: under which `made` keeps what it found out.
    indexes: the columns of further indexes of it.
    secured: the rows come from a table with row security.
    """

    side: DraftSide
    owner: str
    made: CreateTable | None = None
    label: str = ""
    indexes: tuple[tuple[str, ...], ...] = ()
    secured: bool = False


def make_table(
    draft: Draft,
    shape: TableShape,
    written: str,
    keys: Sequence[TableColumn],
    mapped: Sequence[TableColumn],
    columns: list[DraftMirrored],
    created: MadeTable,
    label: str,
    problems: list[Problem],
    *,
    primary_key: Sequence[str] = (),
) -> Target | None:
    """The table that the migration makes: columns of its own that are in the primary key, the key, the mapped ones, the others.

    Parameters
    ----------
    primary_key: that of the file; the key, if empty.
    """
    key = [c.name for c in keys]
    by_itself = {*key, *(c.name for c in mapped)}
    own = [c for c in created.columns if c.name not in by_itself]
    primary = tuple(primary_key) or tuple(key)
    first = [c for c in own if c.name in primary]
    unique = created.unique
    if set(primary) != set(key):
        unique = (UniqueKey(columns=tuple(key)), *unique)
    made = CreateTable(
        name=written,
        columns=(*first, *keys, *mapped, *(c for c in own if c not in first)),
        primary_key=primary,
        unique=unique,
        checks=created.checks,
        foreign_keys=created.foreign_keys,
        comment=created.comment,
        grants=created.grants,
    )
    found = [
        Problem(
            f"`create` gives {draft.name(written)} a column {c.name}, which the operation makes by itself",
            remedy="Leave it out of `create.columns`, which are those that the table has besides; or give it another name.",
            rule="column-exists",
        )
        for c in created.columns
        if c.name in by_itself
    ]
    found += made.apply(draft, label)
    names = {c.name for c in made.columns}
    found += [
        Problem(
            f"`foreign_key` makes the one of {', '.join(fk.columns)} of {draft.name(written)} already",
            remedy="Leave it out of `foreign_keys`, or give `foreign_key: null`.",
        )
        for fk in created.foreign_keys
        if created.belongs and set(fk.columns) == set(key)
    ]
    found += [
        Problem(f"there is no column {name} in {draft.name(written)} to index", rule="unknown-column")
        for name in dict.fromkeys(name for index in created.indexes for name in index)
        if name not in names
    ]
    problems += found
    if found:
        return None
    side = DraftSide(
        table=draft.name(written),
        oid=0,
        kind=SideKind.ROWS,
        key=key,
        columns=columns,
        readable=[(c.name, draft.type(c.type), c.collation) for c in made.columns],
        guarded=bool(created.unique or created.checks or created.foreign_keys),
        created=True,
        refers=[
            Reference(key.name_on(draft.name(written).name), key.columns, parent, tuple(there))
            for key, (parent, there) in zip(created.foreign_keys, draft.memo[label][1], strict=True)
        ],
        reactions=[
            (name, key.references.table)
            for key in created.foreign_keys
            if {key.on_delete, key.on_update} - {"no action", "restrict"}
            and not {c.name for c in created.columns}.issuperset(key.columns)
            for name in (key.name_on(draft.name(written).name),)
        ],
        required=[
            c.name
            for c in made.columns
            if c.not_null and not (c.default or c.identity or c.generated) and c.name not in key
        ],
    )
    tell_secured(draft, shape, side.table, label.split("/", 1)[0])
    tell_granted(draft, [shape.table], made, label.split("/", 1)[0])
    return Target(side, shape.table.owner, made, label, created.indexes, shape.table.row_security)


def tell_secured(draft: Draft, shape: TableShape, made: QualifiedName, label: str) -> None:
    """Say in the plan what becomes of row security in a table that is made for rows of one that has it."""
    if not shape.table.row_security:
        return
    draft.findings.append(
        Finding(
            severity=Severity.WARNING,
            text=f"{shape.name} has row security, whose policies say nothing of {made}: that gets row security without a policy, so that "
            "only its owner sees its rows, until you give it policies of its own (CREATE POLICY, after preparation)",
            where=label,
            rule="row-security-views",
        )
    )


def tell_granted(draft: Draft, sources: Sequence[Table], made: CreateTable, label: str) -> None:
    """Say in the plan who may use the tables that rows come from, and not the one that is made for them."""
    given = {role for role, privileges in made.grants.items() if privileges}
    without = [
        role
        for role in dict.fromkeys(role for table in sources for role in table.granted)
        if role not in given
    ]
    if not without or any(role.upper() == "PUBLIC" for role in given):
        return
    name = draft.name(made.name)
    draft.findings.append(
        Finding(
            severity=Severity.WARNING,
            text=f"{', '.join(without)} may use {' and '.join(str(table.name) for table in sources)}, and gets no rights on {name}: what "
            f"the new version does there as that role is refused (42501) until somebody grants them; say `grants` where {name} is made",
            where=label,
        )
    )


def nothing_comes_back(to: QualifiedName, label: str) -> Finding:
    """What `one_way` means for the new version, which has to know before it is deployed."""
    return Finding(
        severity=Severity.WARNING,
        text=f"what the new version writes to {to} before cleanup does not flow back, but in columns of its own: the verification counts it as a "
        "difference, which refuses switchover and cleanup; `zdm verify --repair`, or what the old version writes to that row next, takes it away; "
        "and a rollback loses it. Let the new version only read these rows until cleanup is done",
        where=label,
    )


def existing_table(
    draft: Draft,
    shape: TableShape,
    written: str,
    key: Mapping[str, str],
    columns: list[DraftMirrored],
    problems: list[Problem],
    *,
    unique: Sequence[str] = (),
    given: Sequence[str] = (),
) -> Target | None:
    """The table that is there, its columns being what they are; what stands in the way is appended.

    Parameters
    ----------
    unique: what names a row of it, where that is more than `key`.
    given: columns that hold the same in all rows of the other table.
    """
    names = tuple(unique) or tuple(key)
    other = find_shape(draft, written, problems, ordinary=True)
    if other is None:
        return None
    table = other.table
    if other is shape:
        problems.append(Problem("a table's rows cannot go to the table itself"))
    if other.changed:
        problems.append(
            Problem(
                f"table {other.name} is changed by this migration, and gets rows by it",
                remedy="Change it in one migration, and fill it in the next.",
            )
        )
    if table.owner != shape.table.owner:
        problems.append(
            Problem(
                f"{table.name} belongs to {table.owner}, {shape.name} to {shape.table.owner}: what is written to one could not be "
                "written to the other",
                remedy="Give both to one role first (ALTER TABLE … OWNER TO …).",
                rule="not-owner",
            )
        )
    problems.extend(
        loose_key(table, names, "Add the unique constraint first; without it two rows could claim one place.")
    )
    for name, source in key.items():
        there, here = table.column(name), shape.table.column(source)
        if there is not None and here is not None and there.type != here.type:
            problems.append(
                Problem(
                    f"{name} of {table.name} is {there.type}, {source} of {shape.name} is {here.type}",
                    remedy="Bring both to one type first (change_type).",
                    rule="no-key",
                )
            )
    for mapped in columns:
        found = table.column(mapped.name)
        if found is None:
            problems.append(
                Problem(f"there is no column {mapped.name} in {table.name}", rule="unknown-column")
            )
            continue
        mapped.type, mapped.collation, mapped.not_null = found.type, found.collation, found.not_null
    known = {*names, *given, *(c.name for c in columns)}
    problems.extend(
        Problem(
            f"column {c.name} of {table.name} is NOT NULL without a default: rows that the old version makes have no value for it",
            remedy="Give it a default first.",
        )
        for c in table.columns
        if c.name not in known and required(c)
    )
    others = [i for i in table.indexes if i.unique and set(i.columns) != set(names)]
    checked = [c for c in table.constraints if c.kind in {"check", "exclusion", "foreign key"}]
    side = DraftSide(
        table=table.name,
        oid=table.oid,
        kind=SideKind.ROWS,
        key=list(names),
        columns=columns,
        readable=readable(table),
        guarded=bool(others or checked or table.triggers),
        required=[c.name for c in table.columns if c.name not in names and required(c)],
    )
    return Target(side, shape.table.owner)


def table_steps(target: Target, phase: Phase, context: Context) -> list[Step]:
    """The steps that make the table, which belongs to whom the other one belongs; none if it exists."""
    if target.made is None:
        return []
    return made_steps(
        target.made,
        target.side.table,
        target.label,
        target.indexes,
        target.owner,
        phase,
        context,
        secured=target.secured,
    )


def made_steps(
    made: CreateTable,
    name: QualifiedName,
    label: str,
    indexes: Iterable[Sequence[str]],
    owner: str,
    phase: Phase,
    context: Context,
    *,
    secured: bool = False,
) -> list[Step]:
    """The steps of a table that is made, with its indexes while it is empty, and given to `owner`; they are of the operation at hand.

    Parameters
    ----------
    label: under which `made` keeps what it found out.
    secured: row security is switched on: its rows come from a table that has it.
    """
    steps: list[Step] = []
    for step in made.plan(phase, replace(context, label=label)):
        update: dict[str, object] = {"operation": context.label}
        action = step.action
        if isinstance(action, Transaction) and step.id.endswith(".create_table"):
            more = _finishing(name, indexes, owner, secured=secured)
            update["action"] = action.model_copy(update={"statements": (*action.statements, *more)})
        steps.append(step.model_copy(update=update))
    return steps


def _finishing(
    name: QualifiedName, indexes: Iterable[Sequence[str]], owner: str, *, secured: bool
) -> list[str]:
    """What a table that is still empty gets besides."""
    found = [
        ddl.text(
            "CREATE INDEX {i} ON {t} ({c})",
            i=ddl.ident(fit(f"{name.name}_{'_'.join(columns)}_idx")),
            t=ddl.table(name),
            c=ddl.idents(columns),
        )
        for columns in indexes
    ]
    if secured:
        found.append(ddl.text("ALTER TABLE {t} ENABLE ROW LEVEL SECURITY", t=ddl.table(name)))
    return [*found, ddl.text("ALTER TABLE {t} OWNER TO {owner}", t=ddl.table(name), owner=ddl.ident(owner))]


def sequence_step(context: Context, old: Table, source: str, new: QualifiedName, name: str) -> Step:
    """A sequence that numbers a column of the old table goes on with the column `name` of the new one, whose default it is."""
    return Step(
        id=f"cleanup.{new}.sequence.{name}",
        title=f"let {name} of {new} own the sequence that numbers it",
        phase=Phase.CLEANUP,
        stage=Stage.TIGHTEN,
        operation=context.label,
        action=Transaction(
            statements=(
                dollar_quoted(
                    "sequence_move",
                    table=sql.Literal(ddl.table(old.name).as_string(None)),
                    column=sql.Literal(source),
                    owner=sql.Literal(sql.Identifier(new.schema_, new.name, name).as_string(None)),
                ).as_string(None),
            ),
            locks=(ddl.lock(new),),
        ),
    )


def unique_over(table: Table, columns: Sequence[str]) -> bool:
    """Whether a unique constraint or index, not deferrable, covers exactly these NOT NULL columns: rows can be found and met by them."""
    filled = {c.name for c in table.columns if c.not_null}
    if not columns or not filled.issuperset(columns):
        return False
    keys = [
        c.columns
        for c in table.constraints
        if c.kind in {"primary key", "unique"} and "DEFERRABLE" not in c.definition
    ]
    keys += [index.key for index in table.indexes if index.key is not None]
    return any(set(key) == set(columns) for key in keys)


def loose_key(table: Table, columns: Sequence[str], remedy: str = "", called: str = "") -> Iterator[Problem]:
    """Why rows of the table cannot be found, and met, by these columns; nothing if they can.

    Parameters
    ----------
    remedy: where no constraint is over them; to use the key that the table has, if empty.
    called: what the columns are, for people.
    """
    if unique_over(table, columns):
        return
    named = f"({', '.join(columns)}){f', {called},' if called else ''}"
    over = [
        c for c in table.constraints if c.kind in {"primary key", "unique"} and set(c.columns) == set(columns)
    ]
    if not over:
        own = f"Use its key ({', '.join(table.key)})." if table.key else "Add a primary key first."
        what = f"{named} is no unique key of {table.name} whose columns are NOT NULL"
        yield Problem(what, remedy=remedy or own, rule="no-key")
        return
    by = f"{named} is unique in {table.name} by {over[0].name}"
    empty = [c.name for c in table.columns if c.name in columns and not c.not_null]
    if empty:
        yield Problem(
            f"{by}, but {', '.join(empty)} may be NULL, and rows with NULL have no key",
            remedy=f"Make {', '.join(empty)} NOT NULL in a migration before this one (set_not_null).",
            rule="no-key",
        )
    if all("DEFERRABLE" in c.definition for c in over):
        yield Problem(
            f"{by}, which is deferrable: it is checked late, so that two rows may have one key until then, and INSERT … ON CONFLICT "
            "cannot go by it",
            remedy="Add a unique constraint over the same columns that is not deferrable in a migration before this one (add_unique); "
            "it refuses at once what the deferrable one refuses late.",
            rule="no-key",
        )


def refuse_loose_key(table: Table, wanted: Sequence[str], problems: list[Problem]) -> None:
    """Append a problem unless rows of the table can be found, and met, by these columns."""
    unknown = [name for name in wanted if table.column(name) is None]
    problems.extend(
        Problem(
            f"there is no column {name} in {table.name}, which `key` names",
            remedy=f"It has {', '.join(c.name for c in table.columns)}.",
            rule="unknown-column",
        )
        for name in unknown
    )
    if not unknown:
        problems.extend(loose_key(table, wanted))


def named_once(table: Table, names: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with names of columns, each of which the operation does something else with."""
    for name in dict.fromkeys(names):
        if table.column(name) is None:
            yield Problem(f"there is no column {name} in {table.name}", rule="unknown-column")
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Problem(f"column {name} of {table.name} is named more than once")


def keys_of(key: Mapping[str, str], table: Table) -> list[TableColumn]:
    """The key columns of a table to make, which equal those of `table`."""
    return [
        TableColumn(name=name, type=column.type, not_null=True, collation=column.collation)
        for name, source in key.items()
        if (column := table.column(source)) is not None
    ]


def lent_defaults(
    shape: TableShape, wanted: Sequence[tuple[Column, str]], target: str, label: str, kind: str
) -> list[Step]:
    """Where the new version's rows would have no value for an old column, it gets a default until cleanup."""
    if not wanted:
        return []
    made = ddl.alter(
        shape.name,
        "{a}",
        a=sql.SQL(", ").join(
            sql.SQL("ALTER COLUMN {} SET DEFAULT ({})").format(ddl.ident(c.name), ddl.raw(text))
            for c, text in wanted
        ),
    )
    undone = [sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(ddl.ident(c.name)) for c, _ in wanted]
    return [
        Step(
            id=f"preparation.{shape.name}.{kind}.defaults.{wanted[0][0].name}",
            title=f"give moved columns of {shape.name} a default for rows of the new version",
            phase=Phase.PREPARATION,
            stage=Stage.STRUCTURE,
            operation=label,
            action=made.model_copy(update={"statements": ddl.in_target(target, *made.statements)}),
            undo=(ddl.alter(shape.name, "{a}", a=sql.SQL(", ").join(undone)),),
        )
    ]


def required(column: Column) -> bool:
    """Whether an INSERT must name the column."""
    return column.not_null and column.default is None and not column.identity and not column.generated


def readable(table: Table) -> list[tuple[str, str, str | None]]:
    """The columns of a table as `DraftSide.readable` has them."""
    return [(c.name, c.type, c.collation) for c in table.columns]


def quoted(name: str) -> str:
    """A column's name as an expression."""
    return '"' + name.replace('"', '""') + '"'


def key_must_cascade(draft: Draft, reaction: str | None, to: str, references: QualifiedName) -> list[Problem]:
    """What stands against a foreign key of the table that is made: it must let go of rows before a reconciler does."""
    if draft.sync is not SyncMode.LOGGED or reaction in (None, "cascade"):
        return []
    return [
        Problem(
            f"the foreign key of {to} to {references} would refuse what the old version deletes (ON DELETE "
            f"{reaction.upper()}): with `sync: logged` its row there is still there at that moment",
            remedy="Use `foreign_key: cascade`, or null and add the key in a migration of its own; or `sync: immediate`.",
            rule="logged-sync",
        )
    ]


def without_old_form(
    draft: Draft,
    label: str,
    policy: WithoutOldForm,
    old: QualifiedName,
    new: QualifiedName,
    rows: Sequence[str],
) -> list[Problem]:
    """Say in the plan what becomes of rows of `new` that `old` has no form for; what stands against it is returned.

    Parameters
    ----------
    rows: which rows these are, each as a phrase with its SQLSTATE; those that a constraint refuses are always among them.
    """
    if policy is WithoutOldForm.RECORD and draft.sync is SyncMode.LOGGED:
        return [
            Problem(
                "`without_old_form: record` needs the triggers of `sync: immediate`; with `sync: logged` such rows refuse the gates, and "
                "`zdm rollback --no-verify` keeps them in zdm.row_conflicts",
                remedy="Leave it out, or use `sync: immediate`.",
                rule="logged-sync",
            )
        ]
    which = "; ".join([*rows, f"what `down` or a constraint of {old} refuses"])
    text = (
        f"rows of {new} without an old form stand there alone until cleanup, and are recorded; a rollback names them, and keeps them in "
        f"zdm.rows_without_old_form: {which}"
        if policy is WithoutOldForm.RECORD
        else f"until cleanup the new version's writes of rows of {new} that have no old form are refused: {which}"
    )
    draft.findings.append(Finding(severity=Severity.NOTE, text=text, where=label))
    return []
