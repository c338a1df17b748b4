"""Rows of the new side that the old one cannot hold, as ``zdm.rows_without_old_form`` has them: conditions, and what a rollback keeps.

What is recorded is kept there by the triggers (`zdm.sql.row_record`, `zdm.sql.element_record`, `zdm.sql.link_record`), in the application's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from zdm.model.row_mapping import ParentSide, RowMapping, SideKind
from zdm.sql import row_conditions
from zdm.sql.identifiers import SCHEMA, all_of, column, comma, qualified_name
from zdm.sql.row_objects import equal, failure_key, text_of
from zdm.sql.rows import render
from zdm.sql.templates import dollar_quoted

RECORDS = sql.Identifier(SCHEMA, "rows_without_old_form")
CONFLICTS = sql.Identifier(SCHEMA, "row_conflicts")
MEETINGS = sql.Identifier(SCHEMA, "row_meetings")


def record_key(mapping: RowMapping, alias: str) -> sql.Composable:
    """The key of a row of the new side as the record has it; of a link, with the parent that it refers to."""
    if mapping.parent is None:
        return failure_key(mapping.new, alias)
    names = (*mapping.new.key, *mapping.parent.reference)
    return sql.SQL("pg_catalog.jsonb_build_object({})").format(
        comma(part for name in names for part in (sql.Literal(name), column(name, alias)))
    )


def recorded(mapping: RowMapping, rollout: int, alias: str) -> sql.Composed:
    """A condition over a row of the new side: it is recorded as having no old form."""
    return sql.SQL("EXISTS (SELECT {})").format(entry(mapping, rollout, record_key(mapping, alias)))


def counted(mapping: RowMapping, rollout: int) -> sql.Composable:
    """A FROM item without its alias: the rows of the new side, but for those that are recorded.

    Parameters
    ----------
    rollout: 0 before there is one, when nothing is recorded.
    """
    table = qualified_name(mapping.new.table)
    if not (mapping.records and rollout):
        return table
    return sql.SQL("(SELECT zdm_x.* FROM {} AS zdm_x WHERE NOT {})").format(
        table, recorded(mapping, rollout, "zdm_x")
    )


def count(mapping: RowMapping, rollout: int) -> sql.Composed:
    """A SELECT of how many rows of the new side are recorded."""
    return sql.SQL("SELECT pg_catalog.count(*) FROM {} AS zdm_n WHERE {}").format(
        qualified_name(mapping.new.table), recorded(mapping, rollout, "zdm_n")
    )


def known(mapping: RowMapping, rollout: int, old: str, new: str) -> sql.Composable:
    """A condition over two rows that a comparison found wrong, of which either may be missing: that is so because it is recorded.

    A row of the old side that makes the other one is not: the record should have ended with it.
    """
    makes: list[sql.Composable] = [sql.SQL("{} IS NOT NULL").format(column(mapping.old.key[0], old))]
    if mapping.where is not None:
        makes.append(sql.SQL("({} IS TRUE)").format(render(mapping.where, old)))
    if mapping.old.kind is SideKind.COLUMNS:
        makes.append(row_conditions.holds(mapping.old, old))
    if mapping.foremost:
        # What is no table's may have the number of one of its rows.
        makes.append(sql.SQL("({} IS TRUE)").format(row_conditions.theirs(mapping.new, new)))
    return sql.SQL("({} IS NOT NULL AND {} AND NOT {})").format(
        column(mapping.new.key[0], new), recorded(mapping, rollout, new), all_of(makes)
    )


def prune(mapping: RowMapping, rollout: int) -> str:
    """What forgets rows that are not there any more; the caller's lock keeps writers of the new side away."""
    gone = sql.SQL(
        "DELETE FROM {} AS zdm_f WHERE {} AND zdm_f.table_name OPERATOR(pg_catalog.=) {} AND NOT EXISTS (SELECT FROM {} AS zdm_n WHERE {} OPERATOR(pg_catalog.=) zdm_f.key)"
    )
    return text_of(
        dollar_quoted(
            "record_prune",
            schema=sql.Literal(SCHEMA),
            table=sql.Literal(text_of(qualified_name(mapping.new.table))),
            forget=gone.format(
                RECORDS,
                of_mapping(mapping, rollout),
                sql.Literal(mapping.new.table.name),
                qualified_name(mapping.new.table),
                record_key(mapping, "zdm_n"),
            ),
        )
    )


def complete(mapping: RowMapping, parent: ParentSide, rollout: int) -> str:
    """What adds to each link that is recorded the parent that it refers to, under the name of the parents' table."""
    added = sql.SQL(
        "UPDATE {} AS zdm_f SET new_row = zdm_f.new_row OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object({}, pg_catalog.to_jsonb(zdm_p))"
        " FROM {} AS zdm_l JOIN {} AS zdm_p ON {} WHERE {} AND zdm_f.key OPERATOR(pg_catalog.=) {}"
    ).format(
        RECORDS,
        sql.Literal(str(parent.table)),
        qualified_name(mapping.new.table),
        qualified_name(parent.table),
        equal(parent.reference, "zdm_l", parent.identity, "zdm_p"),
        of_mapping(mapping, rollout),
        record_key(mapping, "zdm_l"),
    )
    return text_of(
        dollar_quoted(
            "record_parents",
            schema=sql.Literal(SCHEMA),
            link=sql.Literal(text_of(qualified_name(mapping.new.table))),
            parent=sql.Literal(text_of(qualified_name(parent.table))),
            complete=added,
        )
    )


def lone_parents(sharing: Sequence[RowMapping], rollout: int) -> tuple[sql.Composed, sql.Composed]:
    """What records the parents that no row has, so that no value of the old version says them: two statements, to be repeated together.

    Parameters
    ----------
    sharing: all mappings whose rows have their parents in the one table; the record is the first one's.
    """
    mapping = sharing[0]
    parent = mapping.parent
    assert parent is not None
    had = [
        sql.SQL("NOT EXISTS (SELECT FROM {} AS zdm_l WHERE {})").format(
            counted(one, rollout), equal(one.parent.reference, "zdm_l", one.parent.identity, "zdm_p")
        )
        for one in sharing
        if one.parent is not None
    ]
    tables = dict.fromkeys(str(one.old.table) for one in sharing)
    of_table = sql.SQL(
        "{} AND zdm_f.schema_name OPERATOR(pg_catalog.=) {} AND zdm_f.table_name OPERATOR(pg_catalog.=) {}"
    ).format(of_mapping(mapping, rollout), sql.Literal(parent.table.schema_), sql.Literal(parent.table.name))
    key = comma(part for name in parent.identity for part in (sql.Literal(name), column(name, "zdm_p")))
    return sql.SQL("DELETE FROM {} AS zdm_f WHERE {}").format(RECORDS, of_table), sql.SQL(
        "INSERT INTO {} (rollout, mapping, schema_name, table_name, key, new_row, sqlstate, reason)"
        " SELECT {}, {}, {}, {}, pg_catalog.jsonb_build_object({}), pg_catalog.to_jsonb(zdm_p), '02000', {} FROM {} AS zdm_p"
        " WHERE {}"
    ).format(
        RECORDS,
        sql.Literal(rollout),
        sql.Literal(mapping.number),
        sql.Literal(parent.table.schema_),
        sql.Literal(parent.table.name),
        key,
        sql.Literal(f"no row of {' or '.join(tables)} has it"),
        qualified_name(parent.table),
        sql.SQL(" AND ").join(had),
    )


def of_mapping(mapping: RowMapping, rollout: int) -> sql.Composable:
    """A condition over ``zdm_f``, an entry: it is of this mapping."""
    return sql.SQL(
        "zdm_f.rollout OPERATOR(pg_catalog.=) {} AND zdm_f.mapping OPERATOR(pg_catalog.=) {}"
    ).format(sql.Literal(rollout), sql.Literal(mapping.number))


def entry(mapping: RowMapping, rollout: int, key: sql.Composable) -> sql.Composed:
    """The entry of a key, as a FROM and WHERE."""
    return sql.SQL("FROM {} AS zdm_f WHERE {} AND zdm_f.key OPERATOR(pg_catalog.=) {}").format(
        RECORDS, of_mapping(mapping, rollout), key
    )


def granted(table: sql.Composable, owner: sql.Composable) -> sql.Composed:
    """What makes the functions the table's owner's, who may keep the record, and what lost."""
    grants = dollar_quoted("record_grants", schema=sql.Literal(SCHEMA), table=sql.Literal(text_of(table)))
    return sql.SQL("{};\n{}").format(owner, grants)
