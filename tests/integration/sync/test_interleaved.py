"""Two sessions at once: writers of either version, the backfill, and snapshots older than the sync."""

from __future__ import annotations

import pytest

from tests.integration.sync.scenarios import PARSED, UNFILLED
from tests.integration.sync.stage import Stage
from tests.support import Isolation, Scene, on_all_versions
from tests.support.servers import Database

pytestmark = on_all_versions

LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
WRITES = {
    "old": ("before", "UPDATE t SET a = 9 WHERE id = 1", {"a": 9, "_c": 9.0}),
    "old relative": ("before", "UPDATE t SET a = a + 1 WHERE id = 1", {"a": 6, "_c": 6.0}),
    "new": ("after", "UPDATE t SET a = 8.4 WHERE id = 1", {"a": 8, "_c": 8.4}),
    "unrelated": ("public", "UPDATE t SET o = 'y' WHERE id = 1", {"a": 5, "_c": 5.0}),
    "key": ("public", "UPDATE t SET id = 1, a = a WHERE id = 1", {"a": 5, "_c": 5.0}),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", WRITES)
def test_chunk_waits_for_a_writer(database: Database, scene: Scene, kind: str, level: Isolation) -> None:
    s = Stage.set(database, UNFILLED)
    path, write, expected = WRITES[kind]
    writer, filler = scene.session("writer"), scene.session("filler")
    writer.run(f"SET search_path = {path}, public")
    writer.begin(level)
    writer.run(write)
    chunk = filler.start(s.fill().as_string(None))
    chunk.wait_blocked(by=writer)
    writer.run("COMMIT")
    chunk.result()
    s.has(1, **expected)
    s.agrees()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", WRITES)
def test_writer_waits_for_a_chunk(database: Database, scene: Scene, kind: str, level: Isolation) -> None:
    s = Stage.set(database, UNFILLED)
    path, write, expected = WRITES[kind]
    writer, filler = scene.session("writer"), scene.session("filler")
    writer.run(f"SET search_path = {path}, public")
    filler.begin()
    filler.run(s.fill().as_string(None))
    writer.begin(level)
    pending = writer.start(write)
    pending.wait_blocked(by=filler)
    filler.run("COMMIT")
    error = pending.error()
    writer.run("ROLLBACK" if error else "COMMIT")
    if level == "READ COMMITTED":
        assert error is None
    else:
        # Its snapshot is older than the chunk; such applications retry.
        assert error == "40001"
        writer.run(write)
    s.has(1, **expected)
    s.agrees()


@pytest.mark.parametrize("first", ["old", "new"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("filled", [True, False])
def test_both_versions_write_one_row(
    database: Database, scene: Scene, first: str, level: Isolation, filled: bool
) -> None:
    s = Stage.set(database, UNFILLED)
    if filled:
        s.backfill()
    second = "new" if first == "old" else "old"
    a, b = scene.session("a"), scene.session("b")
    for session, kind in ((a, first), (b, second)):
        session.run(f"SET search_path = {WRITES[kind][0]}, public")
        session.begin(level)
        session.run("SELECT * FROM t")
    a.run(WRITES[first][1])
    pending = b.start(WRITES[second][1])
    pending.wait_blocked(by=a)
    a.run("COMMIT")
    error = pending.error()
    b.run("ROLLBACK" if error else "COMMIT")
    winner = second if level == "READ COMMITTED" else first
    assert (error is None) == (level == "READ COMMITTED")
    s.has(1, **WRITES[winner][2])
    s.backfill()
    s.agrees()


@pytest.mark.parametrize("level", LEVELS)
def test_snapshot_older_than_the_sync(database: Database, scene: Scene, level: Isolation) -> None:
    s = Stage.set(database, UNFILLED, install=False)
    writer = scene.session("writer")
    writer.begin(level)
    writer.run("SELECT 1")
    s.install()
    writer.run("UPDATE t SET a = 9 WHERE id = 1")
    writer.run("INSERT INTO t (id, a) VALUES (9, 9)")
    writer.run("COMMIT")
    s.has(1, _c=9)
    s.has(9, _c=9)


@pytest.mark.parametrize("level", LEVELS)
def test_failures_of_a_key_are_recorded_and_cured_under_contention(
    database: Database, scene: Scene, level: Isolation
) -> None:
    s = Stage.set(database, PARSED)
    a, b = scene.session("a"), scene.session("b")
    a.begin(level)
    a.run("UPDATE t SET a = 'bad' WHERE id = 1")
    b.begin(level)
    pending = b.start("UPDATE t SET a = '7' WHERE id = 1")
    pending.wait_blocked(by=a)
    a.run("COMMIT")
    error = pending.error()
    b.run("ROLLBACK" if error else "COMMIT")
    if error:
        assert error == "40001"
        assert len(s.failures()) == 1
        b.run("UPDATE t SET a = '7' WHERE id = 1")
    s.has(1, a="7", _c=7)
    assert s.failures() == []


def test_upsert_races(database: Database, scene: Scene) -> None:
    s = Stage.set(database, UNFILLED)
    a, b = scene.session("a"), scene.session("b")
    b.run("SET search_path = after, public")
    a.begin()
    a.run("INSERT INTO t (id, a) VALUES (9, 1) ON CONFLICT (id) DO UPDATE SET a = EXCLUDED.a")
    pending = b.start("INSERT INTO t (id, a) VALUES (9, 2.4) ON CONFLICT (id) DO UPDATE SET a = EXCLUDED.a")
    pending.wait_blocked(by=a)
    a.run("COMMIT")
    pending.result()
    s.has(9, a=2, _c=2.4, new_last=[0])
    s.backfill()
    s.agrees()
