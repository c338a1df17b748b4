"""Both versions move rows between two old tables while the backfill comes by, and now and then claim one key in both."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.integration.rows.test_stress import LEVELS, Edge
from tests.integration.rows.united import REGIONS, United
from tests.support.servers import Database
from tests.support.writers import Writers
from zdm.backfill.options import Hooks, Options
from zdm.backfill.run import backfill
from zdm.backfill.sweep import BadData
from zdm.db.session import connect
from zdm.sql.rows import Kind

ROWS = 4000

WRONG = """
SELECT o.region, o.id, n.region, n.name, o.name, f.sqlstate FROM (SELECT 'eu' AS region, * FROM customers_eu UNION ALL SELECT 'us', * FROM customers_us) o
FULL JOIN customers n ON (n.region, n.id) = (o.region, o.id)
LEFT JOIN zdm.sync_failures f ON f.table_oid = ('customers_' || o.region)::regclass AND f.key = jsonb_build_object('id', o.id)
WHERE (n.name, n.vat) IS DISTINCT FROM (o.name, o.vat) OR n.id IS NULL OR o.id IS NULL OR f.key IS NOT NULL
"""
"""Rows that disagree, and all that is recorded."""


class Applications:
    """What the two versions do, each at a row around the edge of the backfill, or at one of a few that all want."""

    def __init__(self, edge: Edge, ranges: int) -> None:
        self._edge, self._ranges = edge, ranges

    def _some(self, rng: random.Random, behind: int = 0) -> int:
        if rng.random() < 0.3:
            return rng.randrange(1, 12)
        return self._edge.near(rng) - behind + rng.randrange(self._ranges) * ROWS

    def old(self, connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        """Takes a snapshot first, so that what is committed meanwhile is not in it."""
        connection.execute("SELECT 1 FROM public.customers_eu LIMIT 1")
        for _ in range(2):
            here, there = rng.sample(REGIONS, 2)
            copy = f"INSERT INTO public.customers_{there} SELECT * FROM public.customers_{here} WHERE id = %(id)s ON CONFLICT DO NOTHING"
            gone = f"DELETE FROM public.customers_{here} WHERE id = %(id)s"
            again = f"INSERT INTO public.customers_{there} VALUES (%(id)s, 'again') ON CONFLICT DO NOTHING"
            moved = f"WITH gone AS ({gone} RETURNING *) INSERT INTO public.customers_{there} SELECT * FROM gone ON CONFLICT DO NOTHING"
            written = f"UPDATE public.customers_{here} SET name = name || 'o' WHERE id = %(id)s"
            one = {"id": self._some(rng)}
            for statement in rng.choice(
                [(copy, gone), (gone, again), (moved,), (copy,), (gone,), (written,)]
            ):
                connection.execute(statement.encode(), one)

    def new(self, connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        here, there = rng.sample(REGIONS, 2)
        moved = (
            "UPDATE public.customers AS c SET region = %(there)s WHERE region = %(here)s AND id = %(id)s"
            " AND NOT EXISTS (SELECT FROM public.customers AS o WHERE o.region = %(there)s AND o.id = c.id)"
        )
        statements = (
            moved,
            moved,
            "UPDATE public.customers SET name = name || 'n' WHERE region = %(here)s AND id = %(id)s",
            "DELETE FROM public.customers WHERE region = %(here)s AND id = %(id)s",
            "INSERT INTO public.customers (region, id, name, vat) VALUES (%(here)s, %(id)s, 'new', '') ON CONFLICT DO NOTHING",
        )
        connection.execute(
            rng.choice(statements).encode(), {"id": self._some(rng, 500), "here": here, "there": there}
        )


def _fill(united: United, edge: Edge, *, again: bool = False) -> None:
    for mapping in united.plan.row_mappings:
        try:
            backfill(
                lambda: connect(united.database.dsn, application_name="backfill"),
                united.rollout,
                mapping,
                Options(workers=1, first_rows=50, most_rows=100, again=again),
                Hooks(progress=edge.progress),
            )
        except BadData:
            assert united.keys == "contested"


@pytest.mark.parametrize("keys", ["apart", "contested"])
def test_rows_that_go_back_and_forth(database: Database, keys: str) -> None:
    united = United(database, keys, rows=ROWS)
    edge = Edge(ROWS)
    work = Applications(edge, 2 if keys == "contested" else 1)
    with Writers(database.dsn) as writers:
        for level in LEVELS:
            writers.add(f"old {level}", work.old, isolation=level)
            writers.add(f"new {level}", work.new, isolation=level)
        writers.wait_for(1)
        _fill(united, edge)
        writers.wait_for(20)
    # 23505: the new version moves a row to where its snapshot saw none.
    writers.report.assert_only("40001", "40P01", "55000", *(["23505"] if keys == "apart" else []))
    _fill(united, edge, again=True)
    wrong = database.execute(WRONG)
    if keys == "apart":
        assert wrong == []
        united.agreed()
        return
    # Two rows of one key: one of them is the new one, the other is recorded, and nothing else is wrong.
    ((both,),) = database.execute("SELECT count(*) FROM customers_eu JOIN customers_us USING (id)")
    assert [w for w in wrong if w[5] != "23505" or w[2] is not None] == []
    assert len(wrong) == both > 0
    assert united.found() == {Kind.FAILED: both}
    orphans = database.value(
        "SELECT count(*) FROM (SELECT id FROM customers_eu UNION SELECT id FROM customers_us) o FULL JOIN customers n USING (id)"
        " WHERE (o.id IS NULL) <> (n.id IS NULL)"
    )
    assert orphans == 0
