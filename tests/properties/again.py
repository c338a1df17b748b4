"""Plays a case that failed once more, on a server of its own: what a failure's message says how to use."""

from __future__ import annotations

from tests.properties.pairs import Column
from tests.properties.play import Back, Begin, Case, End, Kill, Play, Sabotage, Table, Write, Zdm
from tests.support.mortal import Mortal
from tests.support.servers import Database, default_server
from zdm.engine.rollout import Engine

__all__ = ["Back", "Begin", "Case", "Column", "End", "Kill", "Sabotage", "Table", "Write", "Zdm", "again"]


def again(case: Case) -> None:
    """Play it, and say what comes of it."""
    with default_server() as server, Mortal() as mortal:
        database = Database(server)
        Engine(database.dsn).init()
        play = Play(database, mortal, case)
        play.run()
        print(play.script())  # noqa: T201
        print("It passes now.")  # noqa: T201
