"""What hangs on a column that is replaced or dropped: carried over to its successor, or refused by name. Never lost silently.

Runs once, when every operation of a migration is applied: only then is it known which columns have a successor and what
the migration drops on purpose. What is carried is asked of the server (`CarryRequest`), so no definition is rewritten here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from zdm.errors import Problem
from zdm.model.names import QualifiedName, fit, qualified
from zdm.model.plan import Finding, Severity
from zdm.model.requests import CarriedColumn, CarryRequest
from zdm.model.step import Lock, Phase, Stage, Step, Transaction
from zdm.model.table import Column, Constraint, Index
from zdm.operations import ddl
from zdm.operations.base import Context, Draft
from zdm.operations.shape import DraftNew, TableShape

BLOCKING = frozenset(
    {
        "view",
        "materialized view",
        "rule",
        "policy",
        "statistics",
        "generated column",
        "function",
        "publication",
        "replica identity",
    }
)
"""Kinds of `Dependent` that cannot follow a replaced column."""

_REMEDIES = {
    "view": "Drop the view, or let it not mention the column, before the rollout; create it again after cleanup.",
    "materialized view": "Drop it before the rollout; create it again after cleanup.",
    "rule": "Drop the rule, and use a trigger instead.",
    "policy": "Write the policy without the column, or change it by hand around the rollout.",
    "statistics": "DROP STATISTICS before the rollout; create them again on the new column after cleanup.",
    "generated column": "Drop the generated column in an earlier migration; add it again after cleanup.",
    "function": "Let the function not mention the column in an SQL-standard body.",
    "publication": "Take the column out of the publication's column list or row filter.",
    "replica identity": "Choose a replica identity that does not use the column.",
}
_VARLENA = re.compile(
    r"(text|varchar|character varying|bytea|json|jsonb|xml|numeric|decimal|citext)\b|.*\[\]$", re.IGNORECASE
)
_ACL = re.compile(r"(?P<role>(?:\"(?:[^\"]|\"\")*\"|[^=\"])*)=(?P<privileges>[a-zA-Z*]*)/")
_PRIVILEGES = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "x": "REFERENCES"}


@dataclass(slots=True)
class _Review:
    """The work on one table: what is replaced, why, and by what."""

    draft: Draft
    shape: TableShape
    replaced: dict[str, str]
    problems: list[Problem] = field(default_factory=list)

    @property
    def successors(self) -> dict[str, DraftNew]:
        return {n.replaces: n for n in self.shape.all_new() if n.replaces is not None}

    def hit(self, columns: Iterable[str]) -> list[str]:
        return [c for c in columns if c in self.replaced]

    def refuse(self, column: str, what: str, remedy: str, rule: str = "hangs-on-column") -> None:
        operation = self.replaced.get(column, "")
        verb = "replaces" if column in self.successors else "removes"
        self.problems.append(
            Problem(
                f"{what}, and {operation.partition(':')[2] or operation} {verb} column {column} of {self.shape.name}",
                where=operation if ":" in operation else "",
                remedy=remedy,
                rule=rule,
            )
        )

    def request(self, kind: str, name: str, column: str) -> None:
        self.draft.carries.append(
            CarryRequest.model_validate(
                {
                    "key": carry_key(self.shape.name, kind, name),
                    "table": self.shape.name,
                    "kind": kind,
                    "name": name,
                    "columns": tuple(
                        CarriedColumn(old=old, new=new.physical, type=new.type, collation=new.collation)
                        for old, new in self.successors.items()
                    ),
                    "where": self.replaced[column],
                }
            )
        )


def carry_key(table: QualifiedName, kind: str, name: str) -> str:
    """The key of a `CarryRequest`, and of its answer."""
    return f"{table}/{kind}/{name}"


def temporary(name: str) -> str:
    """What a carried index or constraint is called until cleanup, when the old one is gone."""
    return fit(f"_zdm_{name}")


def settle(draft: Draft) -> list[Problem]:
    """Look at everything that hangs on replaced columns: fill `draft.carries`, and return what cannot be carried.

    Call it once, after every operation is applied without a problem. `where` of a problem is the operation's label.
    """
    draft.carries.clear()
    problems: list[Problem] = []
    for shape in draft.shapes.values():
        if shape.dropped:
            continue
        review = _Review(draft, shape, shape.replaced())
        if review.replaced:
            _columns(review)
            _constraints(review)
            _references(review)
            _indexes(review)
            _dependents(review)
        _added(review)
        problems += review.problems
    return problems


def _columns(review: _Review) -> None:
    shape = review.shape
    for name in review.replaced:
        column = shape.original(name)
        mapped = name not in shape.removed
        if column is None:
            continue
        if column.identity and mapped:
            review.refuse(
                name,
                f"{name} is an identity column, whose sequence cannot move to another column",
                "Turn it into a plain column with a default from a sequence of its own first.",
                "identity-column",
            )
        if column.generated and mapped:
            review.refuse(
                name, f"{name} is a generated column", "Drop it in one migration and add it in the next."
            )
        if name in shape.uses:
            review.refuse(
                name,
                f"{shape.uses[name]} of this migration stands on it",
                "Put that operation after this one.",
            )


def _drops_only(review: _Review, columns: Sequence[str]) -> bool:
    """Whether an index or constraint stands on nothing but columns that are dropped outright, so it is meant to go."""
    gone = {
        c
        for c, operation in review.replaced.items()
        if c in review.shape.removed or operation.endswith(":drop_column")
    }
    return bool(columns) and gone.issuperset(columns)


def _goes_too(review: _Review, what: str, column: str) -> None:
    review.draft.findings.append(
        Finding(
            severity=Severity.NOTE,
            text=f"cleanup drops {what} of {review.shape.name} together with column {column}",
            where=review.replaced[column],
        )
    )


def _constraints(review: _Review) -> None:
    for constraint in review.shape.table.constraints:
        hit = review.hit(constraint.columns)
        if not hit or constraint.kind == "not null" or constraint.name in review.shape.gone_constraints:
            continue
        what = f"the {constraint.kind} {constraint.name} stands on {', '.join(constraint.columns)}"
        if constraint.kind == "primary key":
            review.refuse(
                hit[0],
                what,
                "This version of zdm does not replace primary key columns.",
                "primary-key-column",
            )
        elif _drops_only(review, constraint.columns):
            _goes_too(review, f"the {constraint.kind} {constraint.name}", hit[0])
        elif constraint.kind == "exclusion" or not set(hit) <= set(review.successors):
            review.refuse(
                hit[0],
                what,
                f"Add drop_constraint {constraint.name} to this migration, and add the new one you want.",
            )
        elif constraint.kind == "unique":
            if not any(set(k.columns) == set(constraint.columns) for k in review.shape.table.referenced_by):
                review.request("index", constraint.index or constraint.name, hit[0])
        else:
            review.request(constraint.kind, constraint.name, hit[0])


def _references(review: _Review) -> None:
    for key in review.shape.table.referenced_by:
        hit = review.hit(key.columns)
        child = key.references
        other = review.draft.shapes.get(child) if child is not None else None
        if not hit or (other is not None and (key.name in other.gone_constraints or other.dropped)):
            continue
        review.refuse(
            hit[0],
            f"the foreign key {key.name} of {child} points at {', '.join(key.columns)}",
            f"Drop {key.name} in an earlier migration, and add it again after this one.",
            "referenced-by-foreign-key",
        )


def _indexes(review: _Review) -> None:
    for index in review.shape.table.indexes:
        hit = review.hit(index.columns)
        if (
            not hit
            or index.constraint is not None
            or index.primary
            or index.name in review.shape.gone_indexes
        ):
            continue
        if not index.valid:
            review.refuse(
                hit[0], f"the index {index.name} is invalid", f"DROP INDEX CONCURRENTLY {index.name} first."
            )
        elif _drops_only(review, index.columns):
            _goes_too(review, f"the index {index.name}", hit[0])
        elif set(hit) <= set(review.successors):
            review.request("index", index.name, hit[0])
        else:
            review.refuse(
                hit[0],
                f"the index {index.name} stands on {', '.join(index.columns)}",
                f"Add drop_index {index.name} to this migration, and create_index for the new columns.",
            )


def _dependents(review: _Review) -> None:
    shape = review.shape
    for dependent in shape.table.dependents:
        hit = review.hit(dependent.columns)
        if not hit or dependent.name in review.draft.own_views:
            continue
        if dependent.kind in BLOCKING:
            review.refuse(
                hit[0],
                f"the {dependent.kind} {dependent.name} uses {', '.join(hit)}",
                _REMEDIES[dependent.kind],
                "dependent-object",
            )
        elif "sequence" in dependent.kind and any(c in review.successors for c in hit):
            review.refuse(
                hit[0],
                f"{hit[0]} owns the {dependent.kind} {dependent.name}, which would go with the old column",
                f"ALTER SEQUENCE {dependent.name} OWNED BY NONE first.",
                "owned-sequence",
            )
    for trigger in shape.table.triggers:
        hit = review.hit(trigger.columns)
        if hit:
            review.refuse(
                hit[0],
                f"the trigger {trigger.name} names {', '.join(hit)} in UPDATE OF or WHEN",
                "Create the trigger again without naming the column, and let its function decide.",
                "trigger-names-column",
            )
    if shape.table.triggers:
        names = ", ".join(t.name for t in shape.table.triggers)
        review.draft.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"the functions of the triggers {names} on {shape.name} must not need {', '.join(review.replaced)}"
                " after cleanup; no catalog tells which columns a function body names",
                where=next(iter(review.replaced.values())),
            )
        )


def _added(review: _Review) -> None:
    """A published table sends every column: subscribers must have it first."""
    shape = review.shape
    published = [d.name for d in shape.table.dependents if d.kind == "publication" and not d.columns]
    new = [n.physical for n in shape.all_new()]
    if published and new:
        review.draft.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"{shape.name} is published by {', '.join(published)}: subscribers need the columns {', '.join(new)}"
                " before preparation, or their apply workers stop",
                where=next((g.operation for g in shape.groups), ""),
            )
        )


# ------------------------------------------------------------------------------------------------------------- steps


def plan(phase: Phase, context: Context) -> list[Step]:
    """The steps that carry things over, for every table. In one stage they come after the operations' own steps."""
    found: list[Step] = []
    for shape in context.draft.shapes.values():
        if shape.dropped:
            continue
        if phase is Phase.PREPARATION:
            found += _attributes(shape)
        requests = [r for r in context.draft.carries if r.table == shape.name]
        if phase is Phase.MIGRATION:
            for request in requests:
                found += _carry(shape, request, context.carried[request.key])
        if phase is Phase.CLEANUP:
            if requests:
                found.append(_names(shape, requests))
            if requests or shape.uses:
                found += _index_columns(shape)
    return found


def _attributes(shape: TableShape) -> list[Step]:
    """Comment, column grants, statistics target, storage and compression of the old column, given to its successor."""
    found = []
    for new in shape.all_new():
        old = shape.original(new.replaces) if new.replaces is not None else None
        statements = _attribute_statements(shape.name, old, new) if old is not None else []
        if not statements:
            continue
        strong = any(" SET STORAGE " in one or " SET COMPRESSION " in one for one in statements)
        mode = Lock.ACCESS_EXCLUSIVE if strong else Lock.SHARE_UPDATE_EXCLUSIVE
        found.append(
            Step(
                id=f"preparation.{shape.name}.carry.{new.physical}",
                title=f"give {new.final} of {shape.name} the comment, grants and settings of {new.replaces}",
                phase=Phase.PREPARATION,
                stage=Stage.SYNC,  # after the columns stand, before anybody sees them
                operation=_operation(shape, new),
                action=Transaction(statements=tuple(statements), locks=(ddl.lock(shape.name, mode),)),
            )
        )
    return found


def _operation(shape: TableShape, new: DraftNew) -> str:
    group = shape.group_of(new.physical)
    return group.operation if group is not None else ""


def _attribute_statements(table: QualifiedName, old: Column, new: DraftNew) -> list[str]:
    t, c = ddl.table(table), ddl.ident(new.physical)
    found: list[str] = []
    if old.comment is not None:
        found.append(ddl.text("COMMENT ON COLUMN {t}.{c} IS {text}", t=t, c=c, text=sql.Literal(old.comment)))
    if old.statistics is not None:
        found.append(
            ddl.text(
                "ALTER TABLE {t} ALTER COLUMN {c} SET STATISTICS {n}", t=t, c=c, n=sql.Literal(old.statistics)
            )
        )
    if old.options:
        pairs = [option.partition("=") for option in old.options]
        settings = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, _, value in pairs
        )
        found.append(ddl.text("ALTER TABLE {t} ALTER COLUMN {c} SET ({s})", t=t, c=c, s=settings))
    if _VARLENA.match(new.type):
        if old.storage:
            found.append(
                ddl.text(
                    "ALTER TABLE {t} ALTER COLUMN {c} SET STORAGE {s}",
                    t=t,
                    c=c,
                    s=ddl.raw(old.storage.upper()),
                )
            )
        if old.compression:
            found.append(
                ddl.text(
                    "ALTER TABLE {t} ALTER COLUMN {c} SET COMPRESSION {s}",
                    t=t,
                    c=c,
                    s=ddl.raw(old.compression),
                )
            )
    for item in old.acl:
        found += _grants(table, new.physical, item)
    return found


def _grants(table: QualifiedName, column: str, item: str) -> list[str]:
    """The GRANTs that an aclitem such as ``reader=r*w/owner`` stands for."""
    match = _ACL.match(item)
    assert match is not None, item
    written = match["role"]
    role: sql.Composable = sql.SQL("PUBLIC")
    if written:
        role = ddl.ident(written[1:-1].replace('""', '"') if written.startswith('"') else written)
    found = []
    for letter, option in re.findall(r"([a-zA-Z])(\*?)", match["privileges"]):
        tail = " WITH GRANT OPTION" if option else ""
        found.append(
            ddl.text(
                "GRANT {privilege} ({c}) ON {t} TO {role}{tail}",
                privilege=ddl.raw(_PRIVILEGES[letter]),
                c=ddl.ident(column),
                t=ddl.table(table),
                role=role,
                tail=ddl.raw(tail),
            )
        )
    return found


def _index(shape: TableShape, name: str) -> Index | None:
    return next((i for i in shape.table.indexes if i.name == name), None)


def _constraint(shape: TableShape, name: str) -> Constraint | None:
    return next((c for c in shape.table.constraints if c.name == name), None)


def _backed(shape: TableShape, index: str) -> Constraint | None:
    """The unique constraint that the index belongs to, or None."""
    return next(
        (c for c in shape.table.constraints if c.kind == "unique" and (c.index or c.name) == index), None
    )


def _carry(shape: TableShape, request: CarryRequest, body: str) -> list[Step]:
    if request.kind == "index":
        return _carry_index(shape, request, body)
    constraint = _constraint(shape, request.name)
    assert constraint is not None
    steps = ddl.checked_constraint(
        step_id=f"migration.{shape.name}.carry.{request.name}",
        phase=Phase.MIGRATION,
        stage=Stage.INDEXES,
        operation=request.where,
        on=shape.name,
        name=temporary(request.name),
        body=ddl.raw(body),
        references=constraint.references,
        naive="add-foreign-key-scan" if constraint.references else "add-check-scan",
    )
    return steps if constraint.validated else steps[:1]


def _carry_index(shape: TableShape, request: CarryRequest, body: str) -> list[Step]:
    index, backed = _index(shape, request.name), _backed(shape, request.name)
    name = qualified(shape.name.schema_, temporary(request.name))
    unique = backed is not None or (index is not None and index.unique)
    base = f"migration.{shape.name}.carry.{request.name}"
    steps = [
        Step(
            id=base,
            title=f"build the index {request.name} of {shape.name} on the new column",
            phase=Phase.MIGRATION,
            stage=Stage.INDEXES,
            operation=request.where,
            action=ddl.create_index(name, shape.name, ddl.raw(body), unique=unique),
            undo=(ddl.drop_index(name, shape.name),),
            naive="create-index-blocks-writes",
        )
    ]
    if backed is not None:
        timing = ""
        if backed.definition.endswith((" DEFERRABLE", " INITIALLY DEFERRED")):
            timing = " DEFERRABLE INITIALLY " + (
                "DEFERRED" if backed.definition.endswith(" DEFERRED") else "IMMEDIATE"
            )
        steps.append(
            Step(
                id=f"{base}.constraint",
                title=f"make it a unique constraint of {shape.name}",
                phase=Phase.MIGRATION,
                stage=Stage.INDEXES,
                operation=request.where,
                action=ddl.alter(
                    shape.name,
                    "ADD CONSTRAINT {name} UNIQUE USING INDEX {name}{timing}",
                    name=ddl.ident(name.name),
                    timing=ddl.raw(timing),
                ),
                undo=(ddl.drop_constraint(name.name, shape.name),),
                naive="add-unique-builds-index",
            )
        )
    return steps


def _names(shape: TableShape, requests: Sequence[CarryRequest]) -> Step:
    """The old ones went with their columns, so what was carried takes their names."""
    final = qualified(shape.name.schema_, shape.final_name)
    statements: list[str] = []
    for request in requests:
        constraint = (
            _backed(shape, request.name) if request.kind == "index" else _constraint(shape, request.name)
        )
        if constraint is None:
            statements.append(
                ddl.text(
                    "ALTER INDEX {old} RENAME TO {new}",
                    old=ddl.table(qualified(final.schema_, temporary(request.name))),
                    new=ddl.ident(request.name),
                )
            )
            statements += _index_attributes(shape, request, final)
            continue
        statements.append(
            ddl.text(
                "ALTER TABLE {t} RENAME CONSTRAINT {old} TO {new}",
                t=ddl.table(final),
                old=ddl.ident(temporary(request.name)),
                new=ddl.ident(constraint.name),
            )
        )
        if constraint.comment is not None:
            statements.append(
                ddl.text(
                    "COMMENT ON CONSTRAINT {c} ON {t} IS {text}",
                    c=ddl.ident(constraint.name),
                    t=ddl.table(final),
                    text=sql.Literal(constraint.comment),
                )
            )
        if request.kind == "index":
            statements += _index_attributes(shape, request, final)
    locked = any(" RENAME CONSTRAINT " in statement for statement in statements)
    return Step(
        id=f"cleanup.{shape.name}.carry.names",
        title=f"give what was carried over to the new columns of {final} its name",
        phase=Phase.CLEANUP,
        stage=Stage.FINISH,
        operation=requests[0].where,
        action=Transaction(
            statements=tuple(statements),
            locks=(ddl.lock(final, Lock.ACCESS_EXCLUSIVE if locked else Lock.SHARE_UPDATE_EXCLUSIVE),),
        ),
    )


def _index_attributes(shape: TableShape, request: CarryRequest, final: QualifiedName) -> list[str]:
    """What an index has that is not in its definition, given to the one that takes its name: after the renames."""
    index = _index(shape, request.name)
    if index is None:
        return []
    name = ddl.table(qualified(final.schema_, index.name))
    found = [
        ddl.text(
            "ALTER INDEX {i} ALTER COLUMN {n} SET STATISTICS {target}",
            i=name,
            n=sql.Literal(number),
            target=sql.Literal(target),
        )
        for number, target in index.statistics
    ]
    if index.comment is not None:
        found.append(ddl.text("COMMENT ON INDEX {i} IS {text}", i=name, text=sql.Literal(index.comment)))
    if index.clustered:
        found.append(ddl.text("ALTER TABLE {t} CLUSTER ON {i}", t=ddl.table(final), i=ddl.ident(index.name)))
    return found


_RENAME_INDEX_COLUMNS = """
DECLARE one record;
BEGIN
  FOR one IN
    SELECT c.oid::pg_catalog.regclass AS index, m.physical, m.final
    FROM (VALUES {pairs}) AS m (physical, final)
    CROSS JOIN pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = m.physical
    WHERE i.indrelid = {t}::pg_catalog.regclass
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute b WHERE b.attrelid = c.oid AND b.attname = m.final)
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s RENAME COLUMN %I TO %I', one.index, one.physical, one.final);
  END LOOP;
END
"""


def _index_columns(shape: TableShape) -> list[Step]:
    """An index keeps its own names of its columns, and the server does not change them with the table's."""
    pairs = [(new.physical, new.final) for new in shape.all_new() if new.physical != new.final]
    if not pairs:
        return []
    final = qualified(shape.name.schema_, shape.final_name)
    body = ddl.text(
        _RENAME_INDEX_COLUMNS,
        pairs=sql.SQL(", ").join(
            sql.SQL("({}, {})").format(sql.Literal(old), sql.Literal(new)) for old, new in pairs
        ),
        t=sql.Literal(ddl.table(final).as_string(None)),
    )
    return [
        Step(
            id=f"cleanup.{shape.name}.carry.index_columns",
            title=f"let the indexes of {final} call their columns by their final names",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation="",
            action=Transaction(
                statements=(ddl.text("DO {body}", body=sql.Literal(body)),), locks=(ddl.lock(final),)
            ),
        )
    ]
