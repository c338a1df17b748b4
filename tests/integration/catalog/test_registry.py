"""Registering migrations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.catalog.conftest import NewRollout
from tests.support import Connection, Database, Scene, eventually
from tests.support.catalog import FakeMigration
from zdm.catalog import registry, rollouts
from zdm.catalog.registry import Source, find_cycle
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.operations.migration import Migration


def test_stores_what_it_was_given(conn: Connection) -> None:
    migration = FakeMigration("m", description="more room", module="accounting", version="2.0", risk="high")
    found = registry.register(conn, migration, "id: m  # as written", file="m.yaml")
    assert (found.id, found.module, found.version, found.risk) == ("m", "accounting", "2.0", "high")
    assert (found.source, found.file, found.checksum) == ("id: m  # as written", "m.yaml", migration.checksum)
    assert found.canonical["description"] == "more room"
    assert registry.all_of(conn) == [found]
    registry.set_sql(conn, "m", up_sql="ALTER …", down_sql="ALTER … back")
    again = registry.get(conn, "m")
    assert again is not None
    assert (again.up_sql, again.down_sql) == ("ALTER …", "ALTER … back")
    assert registry.get(conn, "other") is None


def test_a_real_migration_is_accepted_by_the_type_checker_and_the_registry(conn: Connection) -> None:
    migration = Migration.model_construct(id="real", operations=(), description="x")
    assert registry.register(conn, migration, "").checksum == migration.checksum


def test_the_same_again_changes_nothing(conn: Connection) -> None:
    first = registry.register(conn, FakeMigration("m"), "id: m", file="m.yaml")
    assert registry.register_all(conn, [Source(FakeMigration("m"), "id:  m", "moved.yaml")]) == []
    assert registry.get(conn, "m") == first


def test_an_edited_migration_is_refused_with_the_difference(conn: Connection) -> None:
    registry.register(conn, FakeMigration("m", description="old text"), "", file="m.yaml")
    with pytest.raises(BadInput) as refused:
        registry.register(conn, FakeMigration("m", description="new text"), "", file="m.yaml")
    (problem,) = refused.value.problems
    assert problem.where == "m.yaml"
    assert problem.what.startswith("migration 'm' was edited since it was registered:\n--- registered ")
    assert "\n+++ m.yaml\n" in problem.what
    assert "\n-description: old text\n+description: new text\n" in problem.what
    assert "--replace" in problem.remedy


def test_an_edited_migration_can_replace_one_that_has_not_started(
    conn: Connection, new_rollout: NewRollout
) -> None:
    rollout = new_rollout("m")
    edited = FakeMigration("m", description="better")
    assert registry.register(conn, edited, "", replace=True).checksum == edited.checksum
    assert rollouts.get(conn, rollout.id).checksum != edited.checksum, (
        "the rollout says what it was planned from"
    )


def test_a_started_migration_is_never_edited(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout("m")
    rollouts.move(conn, rollout.id, State.PREPARING)
    edited = FakeMigration("m", description="better")
    with pytest.raises(BadInput) as refused:
        registry.register(conn, edited, "", replace=True)
    assert "It has started: public (preparing)." in refused.value.problems[0].remedy
    rollouts.move(conn, rollout.id, State.ROLLING_BACK)
    rollouts.move(conn, rollout.id, State.ROLLED_BACK)
    assert registry.register(conn, edited, "", replace=True).description == "better"


def test_an_id_used_by_two_files(conn: Connection) -> None:
    registry.register(conn, FakeMigration("m"), "", file="first.yaml")
    with pytest.raises(BadInput, match=r"the id 'm' is registered already, from the file first\.yaml"):
        registry.register(conn, FakeMigration("m", description="x"), "", file="second.yaml")
    with pytest.raises(BadInput, match=r"b\.yaml: the id 'n' is used already, by a\.yaml"):
        registry.register_all(
            conn, [Source(FakeMigration("n"), "", "a.yaml"), Source(FakeMigration("n"), "", "b.yaml")]
        )


def test_every_problem_at_once_and_nothing_registered(conn: Connection) -> None:
    given = [
        Source(FakeMigration("fine"), "", "fine.yaml"),
        Source(FakeMigration("lost", depends_on=("nowhere",)), "", "lost.yaml"),
        Source(FakeMigration("a", depends_on=("b",)), "", "a.yaml"),
        Source(FakeMigration("b", depends_on=("c", "fine")), "", "b.yaml"),
        Source(FakeMigration("c", depends_on=("a",)), "", "c.yaml"),
    ]
    with pytest.raises(BadInput) as refused:
        registry.register_all(conn, given)
    texts = [str(problem) for problem in refused.value.problems]
    assert len(texts) == 2
    assert texts[0].startswith("lost.yaml: 'lost' depends on 'nowhere', which is not registered")
    assert texts[1].startswith("a.yaml: migrations depend on each other in a circle: a -> b -> c -> a")
    assert registry.all_of(conn) == []


def test_dependencies_may_come_with_it_or_be_there(conn: Connection) -> None:
    registry.register(conn, FakeMigration("base"), "")
    given = [
        Source(FakeMigration("second", depends_on=("first",))),
        Source(FakeMigration("first", depends_on=("base",))),
    ]
    assert registry.register_all(conn, given) == ["second", "first"]


def test_a_cycle_through_what_is_registered(conn: Connection) -> None:
    registry.register(conn, FakeMigration("a"), "")
    registry.register(conn, FakeMigration("b", depends_on=("a",)), "")
    with pytest.raises(BadInput, match="in a circle: a -> b -> a"):
        registry.register(conn, FakeMigration("a", depends_on=("b",)), "", replace=True)


def test_two_who_register_at_once_cannot_close_a_cycle(
    database: Database, conn: Connection, scene: Scene
) -> None:
    registry.register_all(conn, [Source(FakeMigration("a")), Source(FakeMigration("b"))])
    conn.commit()
    other = database.connect()
    conn.execute("BEGIN")  # else registering would be a transaction of its own
    registry.register(conn, FakeMigration("a", depends_on=("b",)), "", replace=True)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(registry.register, other, FakeMigration("b", depends_on=("a",)), "", replace=True)
        eventually(lambda: scene.blockers(other.info.backend_pid), what="the second waiting for the first")
        conn.commit()
        with pytest.raises(BadInput, match="circle"):
            late.result(20)


@pytest.mark.parametrize(
    "edges, cycle",
    [
        ({}, None),
        ({"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ()}, None),
        ({"a": ("b",), "b": ("a",)}, ["a", "b", "a"]),
        ({"start": ("a",), "a": ("b",), "b": ("c",), "c": ("b",)}, ["b", "c", "b"]),
        ({"a": ("a",)}, ["a", "a"]),
        ({str(n): (str(n + 1),) for n in range(5000)}, None),
    ],
)
def test_find_cycle(edges: dict[str, tuple[str, ...]], cycle: list[str] | None) -> None:
    assert find_cycle(edges) == cycle
