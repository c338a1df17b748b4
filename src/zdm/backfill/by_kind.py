"""Which statements make the rows of a mapping."""

from __future__ import annotations

from typing import Any

import psycopg

from zdm.backfill.element_statements import ElementStatements, GroupStatements
from zdm.backfill.join_statements import JoinStatements
from zdm.backfill.parent_statements import ParentStatements
from zdm.backfill.row_statements import RowStatements
from zdm.db.session import fetch_value
from zdm.model.mapping import TableMapping
from zdm.model.row_mapping import RowMapping
from zdm.sql.identifiers import qualified_name


def statements_of(mapping: RowMapping, rollout: int) -> RowStatements:
    """The statements of a mapping, by its kind."""
    if mapping.gathers:
        return GroupStatements(mapping, rollout)
    if mapping.elements is not None:
        return ElementStatements(mapping, rollout)
    if mapping.parent is not None:
        return ParentStatements(mapping, rollout)
    return (JoinStatements if mapping.joins else RowStatements)(mapping, rollout)


def surrogate(mapping: RowMapping) -> TableMapping:
    """The table that is gone through, under the name that the catalog calls the mapping by."""
    return TableMapping(
        table=mapping.id,
        final_name=mapping.id.name,
        oid=mapping.source.oid,
        key=mapping.source.key,
        path=mapping.path,
    )


def refers(conn: psycopg.Connection[Any], mapping: RowMapping) -> bool:
    """Whether a table that rows are made in has foreign keys, which only triggers enforce."""
    if mapping.joins:
        # The columns are new, so that nothing stands on them.
        return False
    written = [table for table in mapping.tables if table != mapping.old.table]
    return bool(
        fetch_value(
            conn,
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint AS c WHERE c.contype = 'f'"
            " AND c.conrelid = ANY (SELECT pg_catalog.to_regclass(t) FROM pg_catalog.unnest(%s::text[]) AS t))",
            [[qualified_name(table).as_string(None) for table in written]],
        )
    )
