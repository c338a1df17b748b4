"""What the verification asks of a mapping of one row to many that is synced by log: what is wrong, and what is only on its way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from psycopg import sql

from zdm.model.row_mapping import RowMapping
from zdm.sql import element_rows, group_sync
from zdm.sql.element_log import group
from zdm.sql.identifiers import any_of, column, comma, qualified_name
from zdm.sql.log_objects import CHANGES, keyed, of_mapping
from zdm.sql.row_objects import failed
from zdm.sql.rows import Kind

WAITING = "waiting"
"""The kind of a key of which something waits in the log."""


def wrong_or_waiting(mapping: RowMapping, rollout: int, samples: int, *, known: bool) -> sql.Composed:
    """A SELECT of what is wrong, by kind, with how many there are and some keys; and of all keys of which something waits, as JSON."""
    here = of_mapping(mapping, rollout)
    assert mapping.elements is not None
    texts = _texts(column(f"zdm_k{number}", "zdm_d") for number, _ in enumerate(mapping.elements.of))

    def noted(key: Iterable[sql.Composable]) -> sql.Composable:
        return sql.SQL(
            "EXISTS (SELECT FROM {} AS zdm_c WHERE {} AND NOT zdm_c.failed AND zdm_c.key OPERATOR(pg_catalog.=) {})"
        ).format(CHANGES, here, _texts(key))

    # What is noted may be what has no form over there, which is not known yet: nothing of it is computed.
    disagreeing = group_sync.disagreeing if mapping.gathers else element_rows.disagreeing
    wrong = disagreeing(mapping, rollout, known=known, besides=noted)
    return sql.SQL(
        "WITH zdm_t AS MATERIALIZED (SELECT EXISTS (SELECT FROM {changes} AS zdm_c WHERE {here} AND zdm_c.event OPERATOR(pg_catalog.=)"
        " 'truncate') AS waits), zdm_p AS (SELECT CASE WHEN zdm_t.waits THEN {waiting} ELSE zdm_d.kind END AS kind,"
        " CASE WHEN zdm_t.waits THEN pg_catalog.to_jsonb({texts})::pg_catalog.text ELSE zdm_d.key END AS key, zdm_t.waits"
        " FROM ({wrong}) AS zdm_d CROSS JOIN zdm_t WHERE NOT {noted})"
        " SELECT kind, pg_catalog.count(*), CASE WHEN waits THEN pg_catalog.array_agg(key) ELSE (pg_catalog.array_agg(key))[1:{samples}] END"
        " FROM zdm_p GROUP BY kind, waits"
        " UNION ALL SELECT {waiting}, pg_catalog.count(*), pg_catalog.array_agg(DISTINCT pg_catalog.to_jsonb(zdm_c.key)::pg_catalog.text)"
        " FROM {changes} AS zdm_c WHERE {here} AND NOT zdm_c.failed AND zdm_c.key IS NOT NULL HAVING pg_catalog.count(*) > 0"
    ).format(
        changes=CHANGES,
        here=here,
        waiting=sql.Literal(WAITING),
        texts=texts,
        wrong=wrong,
        noted=noted(column(f"zdm_k{number}", "zdm_d") for number, _ in enumerate(mapping.elements.of)),
        samples=sql.Literal(samples),
    )


def wrong_of(
    mapping: RowMapping, rollout: int, keys: Sequence[Sequence[str]], samples: int, *, last: bool = False
) -> sql.Composed:
    """The same of single keys.

    Parameters
    ----------
    last: count also those of which something still waits.
    """
    elements = mapping.elements
    assert elements is not None
    one, many = mapping.side(elements.one), mapping.side(elements.many)
    here = of_mapping(mapping, rollout)
    key = sql.SQL("zdm_k.key")
    waits: sql.Composable = sql.SQL("false")
    if not last:
        waits = sql.SQL(
            "EXISTS (SELECT FROM {} AS zdm_c WHERE {} AND NOT zdm_c.failed AND (zdm_c.key OPERATOR(pg_catalog.=) {}"
            " OR zdm_c.event OPERATOR(pg_catalog.=) 'truncate'))"
        ).format(CHANGES, here, key)
    agree: list[sql.Composable] = [element_rows.is_joined(mapping, "zdm_o", rollout)]
    if elements.split is not None:
        agree.insert(0, element_rows.is_split(mapping, "zdm_o", rollout))
    return sql.SQL(
        "SELECT kind, pg_catalog.count(*), CASE kind WHEN {waiting} THEN pg_catalog.array_agg(pg_catalog.to_jsonb(key)::pg_catalog.text)"
        " ELSE (pg_catalog.array_agg(pg_catalog.array_to_string(key, ', ')))[1:{samples}] END"
        " FROM (SELECT zdm_k.key, CASE WHEN {waits} THEN {waiting}"
        " WHEN NOT EXISTS (SELECT FROM {one} AS zdm_o WHERE {one_key}) THEN"
        " CASE WHEN EXISTS (SELECT FROM {many} AS zdm_m WHERE {many_key}) THEN {alone} END"
        " WHEN {only} AND NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {many_key}) THEN {extra}"
        " WHEN EXISTS (SELECT FROM {one} AS zdm_o WHERE {one_key} AND CASE WHEN EXISTS (SELECT {failed}) THEN false ELSE NOT {agree} END)"
        " THEN {different} END AS kind"
        " FROM (SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(zdm_j)) AS key FROM pg_catalog.jsonb_array_elements({keys}) AS zdm_j) AS zdm_k"
        ") AS zdm_p WHERE kind IS NOT NULL GROUP BY kind"
    ).format(
        waiting=sql.Literal(WAITING),
        samples=sql.Literal(samples),
        waits=waits,
        one=qualified_name(one.table),
        many=qualified_name(many.table),
        one_key=keyed(one, "zdm_o", "zdm_k.key"),
        many_key=keyed(group(mapping), "zdm_m", "zdm_k.key"),
        # A row that only the many make is there with them.
        only=sql.Literal(mapping.gathers),
        alone=sql.Literal((Kind.MISSING if mapping.gathers else Kind.EXTRA).value),
        extra=sql.Literal(Kind.EXTRA.value),
        different=sql.Literal(Kind.DIFFERENT.value),
        failed=failed(
            mapping,
            rollout,
            mapping.source,
            "zdm_o",
            [column(name, "zdm_o") for name in one.key] if mapping.gathers else (),
        ),
        agree=any_of(agree),
        keys=sql.SQL("{}::pg_catalog.jsonb").format(sql.Literal(json.dumps([list(k) for k in keys]))),
    )


def _texts(key: Iterable[sql.Composable]) -> sql.Composed:
    """A key as the log has it."""
    return sql.SQL("ARRAY[{}]").format(comma(sql.SQL("{}::pg_catalog.text").format(part) for part in key))
