"""Goods that refer to their kinds, prepared by `normalise` with a reference: the stage of the tests that write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.conformance.harness import Rollout
from tests.support.interleave import Isolation
from tests.support.servers import Database
from zdm.backfill.reference_statements import ReferenceStatements
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.model.mapping import Authority, TableMapping
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.sql.rows import Kind
from zdm.verify.repair import repair
from zdm.verify.run import verify

OPERATION: dict[str, object] = {
    "table": "goods",
    "columns": ["kind"],
    "parent": "kinds",
    "values": {"shop": "shop", "name": "kind"},
    "create": {
        "columns": [
            {"name": "id", "type": "bigint", "identity": "by default"},
            {"name": "shop", "type": "int"},
            {"name": "name", "type": "varchar(10)"},
            {"name": "note", "type": "text", "default": "'plain'"},
        ],
        "primary_key": ["id"],
    },
    "reference": {"kind_id": "id"},
}


LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


BAD = """
SELECT count(*) FROM goods AS g LEFT JOIN kinds AS k ON k.id = g.kind_id
WHERE g.kind IS DISTINCT FROM k.name OR g.shop <> k.shop OR (g.kind_id IS NOT NULL AND k.id IS NULL)
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""


@dataclass
class Goods:
    """``goods`` that name their kind, prepared to refer to ``kinds``: everything of phase 1 is there, and nothing is filled.

    Parameters
    ----------
    rows: how many goods there are; five kinds in two shops.
    options: further parameters of the operation.
    extra: SQL that is run before the plan is made.
    without: what is taken out of every function that goes from one side to the other.
    """

    database: Database
    rows: int = 30
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    without: str = ""
    sync: SyncMode = SyncMode.IMMEDIATE
    number: int = 1
    rollout: Rollout = field(init=False)
    mapping: TableMapping = field(init=False)

    def __post_init__(self) -> None:
        setup = (
            "CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text, price int NOT NULL DEFAULT 1);"
            f"INSERT INTO goods SELECT g, g % 2, 'k' || g % 5 FROM generate_series(1, {self.rows}) g;"
            + self.extra
        )
        operation: dict[str, object] = {"normalise": {**OPERATION, **self.options}}
        self.rollout = Rollout(self.database, Scenario(setup=setup, operations=(operation,), sync=self.sync))
        self.rollout.advance_to(State.PREPARED)
        self.mapping = next(
            m for m in self.rollout.engine().plan(self.rollout.migration).mappings if m.groups
        )
        if self.without:
            changed = 0
            for (definition,) in self.database.execute(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'zdm'::regnamespace AND proname ~ '^rows_'"
            ):
                changed += self.without in definition
                self.database.execute(definition.replace(self.without, ""))
            assert changed

    def connect(self) -> Any:
        return connect(self.database.dsn, application_name="stage")

    def fill(self) -> None:
        """Run the backfill to its end."""
        assert backfill(self.connect, self.number, self.mapping).complete

    def found(self) -> dict[Kind, int]:
        """What the verification finds."""
        return dict(verify(self.connect, self.mapping).counts)

    def repair(self, authority: Authority) -> int:
        """Make both sides agree, by one of them."""
        return repair(self.connect, self.mapping, authority, rollout=self.number)

    def bad(self) -> int:
        """Rows that disagree."""
        return int(self.database.execute(BAD)[0][0])

    def kind(self, good: int) -> object:
        """What the old version reads."""
        found = self.database.execute(f"SELECT kind FROM goods WHERE id = {good}")
        return found[0][0] if found else "no row"

    def id_of(self, name: str, shop: int = 1) -> int:
        """A kind's key."""
        return int(
            self.database.execute(f"SELECT id FROM kinds WHERE shop = {shop} AND name = '{name}'")[0][0]
        )


def kept(good: int, name: str) -> str:
    return f"UPDATE goods SET kind = '{name}' WHERE id = {good}"


def chunk_of(goods: Goods) -> tuple[list[str], str, str]:
    """The statements of one chunk of the backfill over the whole table."""
    statements = ReferenceStatements(goods.mapping)
    made = [one.as_string(None) for one in statements.makes(0, 10)]
    return made, statements.fill(0, 10, careful=False).as_string(None), statements.rest(0, 10).as_string(None)
