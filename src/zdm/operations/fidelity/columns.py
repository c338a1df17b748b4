"""The replaced column itself: what refuses it, and the attributes that its successor gets."""

from __future__ import annotations

import re

from psycopg import sql

from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.step import Lock, Phase, Stage, Step, Transaction
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.fidelity.review import Review
from zdm.operations.shape import DraftNew, TableShape

_VARLENA = re.compile(
    r"(text|varchar|character varying|bytea|json|jsonb|xml|numeric|decimal|citext)\b|.*\[\]$", re.IGNORECASE
)
_ACL = re.compile(r"(?P<role>(?:\"(?:[^\"]|\"\")*\"|[^=\"])*)=(?P<privileges>[a-zA-Z*]*)/")
_PRIVILEGES = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "x": "REFERENCES"}


def review_columns(review: Review) -> None:
    """Refuse columns that cannot have a successor."""
    shape = review.shape
    for name in review.replaced:
        column = shape.original(name)
        mapped = name not in shape.removed
        if column is None:
            continue
        successor = review.successors.get(name)
        if successor is not None and shape.identity(successor) and not successor.not_null:
            review.refuse(
                name,
                f"{name} is an identity column, which cannot be NULL",
                "Leave out drop_not_null, or give the column another default.",
                "identity-column",
            )
        elif column.identity and (successor is None or not shape.identity(successor)):
            review.draft.findings.append(
                Finding(
                    severity=Severity.NOTE,
                    text=f"cleanup drops the identity sequence of {name} of {shape.name}; nothing numbers the rows then",
                    where=review.replaced[name],
                )
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


def attribute_steps(shape: TableShape) -> list[Step]:
    """Comment, column grants, statistics target, storage and compression of the old column, given to its successor."""
    found = []
    for new in shape.all_new():
        old = shape.original(new.replaces) if new.replaces is not None else None
        statements = attribute_statements(shape.name, old, new.physical, new.type) if old is not None else []
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


def attribute_statements(table: QualifiedName, old: Column, name: str, type_: str) -> list[str]:
    """What gives the column `name` the attributes of another, as far as its type has them."""
    t, c = ddl.table(table), ddl.ident(name)
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
    if _VARLENA.match(type_):
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
        found += _grants(table, name, item)
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
