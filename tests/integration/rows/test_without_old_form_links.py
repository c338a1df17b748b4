"""Links that the old version cannot hold, recorded by policy: it holds one value, and the new version gives a row several parents."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.integration.rows.test_parents import Talks, tagged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from tests.support.writers import Writers
from zdm.db.session import connect
from zdm.model.mapping import Authority
from zdm.verify.parents import verify_parents
from zdm.verify.run import Found

LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

#: No talk of the old version may be about these.
SECRET = "ALTER TABLE talks ADD CHECK (data ->> 'tag' IS NULL OR data ->> 'tag' NOT IN ('secret', 'hidden'))"

WRONG = """
WITH links AS (SELECT l.*, f.key IS NOT NULL AS recorded, f.new_row FROM talk_tags AS l LEFT JOIN zdm.rows_without_old_form AS f
  ON f.key = jsonb_build_object('talk', l.talk, 'tag', l.tag))
SELECT 'value', t.id FROM talks AS t FULL JOIN ((SELECT * FROM links WHERE NOT recorded) AS l JOIN tags AS g ON g.id = l.tag) ON l.talk = t.id
WHERE t.data ->> 'tag' IS DISTINCT FROM g.name OR g.owner <> t.owner OR t.id IS NULL
UNION ALL SELECT 'several', talk FROM links WHERE NOT recorded GROUP BY talk HAVING count(*) > 1
UNION ALL SELECT 'record', talk FROM links WHERE recorded AND new_row IS DISTINCT FROM jsonb_build_object('talk', talk, 'tag', tag, 'votes', votes)
UNION ALL SELECT 'stale', (key -> 'talk')::int FROM zdm.rows_without_old_form AS f WHERE NOT EXISTS (SELECT FROM links AS l
  WHERE f.key = jsonb_build_object('talk', l.talk, 'tag', l.tag))
"""
"""Values that are not what their one link says, and entries of the record that are no link as it is, by a query that knows nothing of zdm's."""


def recording(database: Database, **options: object) -> Talks:
    """Talks of which those with an even id are of owner 0, the others of owner 1, each with one tag; and further tags 'x' to 'z' of both."""
    link = {
        "table": "talk_tags",
        "source": {"talk": "id"},
        "parent": {"tag": "id"},
        "columns": [{"name": "votes", "type": "int", "default": "0"}],
    }
    talks = Talks(
        database, rows=12, options={"without_old_form": "record", "link": link, **options}, extra=SECRET
    )
    talks.fill()
    database.execute(
        "INSERT INTO tags (owner, name) SELECT o, n FROM generate_series(0, 1) o, unnest(ARRAY['x', 'y', 'z', 'secret']) n"
    )
    return talks


def linked(talk: int, name: str, *, owner: int | None = None) -> str:
    owner = talk % 2 if owner is None else owner
    return f"INSERT INTO talk_tags (talk, tag) SELECT {talk}, id FROM tags WHERE owner = {owner} AND name = '{name}'"


def unlinked(talk: int, name: str) -> str:
    return f"DELETE FROM talk_tags WHERE talk = {talk} AND tag IN (SELECT id FROM tags WHERE name = '{name}')"


def unmirrored(database: Database, statement: str) -> None:
    """Write links without any trigger."""
    database.execute(
        f"ALTER TABLE talk_tags DISABLE TRIGGER USER; {statement}; ALTER TABLE talk_tags ENABLE TRIGGER USER"
    )


def found(talks: Talks) -> Found:
    return verify_parents(
        lambda: connect(talks.database.dsn, application_name="verify"), talks.mapping, talks.rollout
    )


def right(talks: Talks, recorded: int) -> None:
    """Each value is what its one link says; that many others are recorded."""
    assert talks.database.execute(WRONG) == []
    looked = found(talks)
    assert (looked.counts, looked.without_old_form) == ({}, recorded)


def on_record(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT (f.key -> 'talk')::int, g.name, f.sqlstate FROM zdm.rows_without_old_form AS f"
        " JOIN tags AS g ON g.id = (f.key -> 'tag')::int ORDER BY 1, 2"
    )


@on_all_versions
@pytest.mark.parametrize("isolation", LEVELS)
def test_everything_that_can_be_written(database: Database, isolation: str) -> None:
    """Talk 2 has tag 't2', talk 4 't4', talk 6 't1'."""
    talks = recording(database)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")

    # A second and a third one, one of another owner, and one that the old version must not hold.
    run(f"{linked(2, 'x')}; {linked(2, 'y')}; {linked(2, 'z', owner=1)}; {linked(2, 'secret')}")
    assert [(name, state) for _, name, state in on_record(database)] == [
        ("secret", "21000"),
        ("x", "21000"),
        ("y", "21000"),
        ("z", "21000"),
    ]
    assert talks.tag(2) == "t2"
    right(talks, 4)
    run("UPDATE talk_tags SET votes = 5 WHERE talk = 2")
    right(talks, 4)
    # The one that is held goes, and the first of the others that can be held takes its place.
    run(unlinked(2, "t2"))
    assert (talks.tag(2), [name for _, name, _ in on_record(database)]) == ("x", ["secret", "y", "z"])
    # One goes that is not held; the other is the only one left, then none that can be held is.
    run(f"{unlinked(2, 'y')}; {unlinked(2, 'x')}")
    assert (talks.tag(2), on_record(database)) == (None, [(2, "secret", "23514"), (2, "z", "23000")])
    right(talks, 2)
    # The old version's value is another link, beside those on record; or one of them, which then counts.
    run(tagged(2, "w"))
    assert (talks.tag(2), len(on_record(database))) == ("w", 2)
    run(linked(2, "y"))
    run(tagged(2, "y"))
    assert (talks.tag(2), [name for _, name, _ in on_record(database)]) == ("y", ["secret", "z"])
    right(talks, 2)
    # It takes the value away, and gives the talk another key, and another owner.
    run("UPDATE talks SET data = data - 'tag' WHERE id = 2")
    run("UPDATE talks SET id = 200 WHERE id = 2")
    assert [(talk, name) for talk, name, _ in on_record(database)] == [(200, "secret"), (200, "z")]
    right(talks, 2)
    run(
        "UPDATE talk_tags SET tag = (SELECT id FROM tags WHERE owner = 0 AND name = 'z') WHERE talk = 200 AND tag ="
        " (SELECT id FROM tags WHERE owner = 1 AND name = 'z')"
    )
    assert (talks.tag(200), [name for _, name, _ in on_record(database)]) == ("z", ["secret"])
    # A tag gets another name: one that can be held, or not any more.
    run("UPDATE tags SET name = 'secret!' WHERE name = 'z'")
    run(unlinked(200, "secret!"))
    run("UPDATE tags SET name = 'open' WHERE name = 'secret'")
    assert (talks.tag(200), on_record(database)) == ("open", [])
    run("UPDATE tags SET name = 'secret' WHERE name = 't4' AND owner = 0")
    assert (talks.tag(4), on_record(database)) == (None, [(4, "secret", "23514")])
    right(talks, 1)
    # A link goes to another talk.
    run("UPDATE talk_tags SET talk = 6 WHERE talk = 4")
    assert on_record(database) == [(6, "secret", "21000")]
    # All in one statement: another one instead, and one more.
    run(
        f"WITH gone AS ({unlinked(6, 't1')}) INSERT INTO talk_tags (talk, tag) SELECT 6, id FROM tags WHERE owner = 0 AND name IN ('x', 'y')"
    )
    assert talks.tag(6) in {"x", "y"}
    right(talks, 2)
    run("DELETE FROM talks WHERE id = 6")
    assert on_record(database) == []
    right(talks, 0)
    run(linked(8, "x"))
    run("DELETE FROM tags WHERE name = 'x'")
    right(talks, 0)
    for table in ("talk_tags", "talks CASCADE"):
        run(linked(8, "y") + "; " + linked(10, "y"))
        database.execute(f"TRUNCATE {table}")
        assert on_record(database) == []
        right(talks, 0)


def test_what_is_refused_still(database: Database) -> None:
    """Links of no row, of rows that are not filled yet, and of rows whose value has no new form."""
    talks = recording(database)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute(linked(888, "x", owner=0))
    unmirrored(database, "DELETE FROM talk_tags WHERE talk = 2")
    # Talk 2 is as one that the backfill has not reached.
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute(f"{linked(2, 'x')}; {linked(2, 'y')}")
    assert (talks.tag(2), on_record(database)) == ("t2", [])
    database.execute(tagged(4, "much too long for it"))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute(linked(4, "x"))


@on_all_versions_at_length
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_snapshot_older_than_what_is_recorded(database: Database, isolation: Isolation) -> None:
    """Who does not see the other link waits, or is told to try again: one counts at the end, whoever came first."""
    talks = recording(database)
    with Scene(database.dsn) as scene:
        for talk, statement in (
            (2, linked(2, "y")),
            (4, unlinked(4, "t4")),
            (6, tagged(6, "x")),
            (8, "UPDATE tags SET name = 'other' WHERE owner = 0 AND name = 't3'"),
        ):
            a, b = scene.session(f"a{talk}"), scene.session(f"b{talk}")
            b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM tags")
            a.run(f"BEGIN; {linked(talk, 'x')}")
            waiting = b.start(statement)
            waiting.wait_blocked()
            a.run("COMMIT")
            if isolation == "READ COMMITTED":
                waiting.result()
                b.run("COMMIT")
            else:
                with pytest.raises(psycopg.errors.SerializationFailure):
                    waiting.result()
                b.run("ROLLBACK")
                b.run(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    assert [talks.tag(talk) for talk in (2, 4, 6, 8)] == ["t2", "x", "x", "other"]
    assert [(talk, name) for talk, name, _ in on_record(database)] == [(2, "x"), (2, "y"), (8, "x")]
    right(talks, 3)


@on_all_versions_at_length
@pytest.mark.parametrize("written", ["DELETE FROM talk_tags", "UPDATE talk_tags SET votes = 5"])
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_link_is_recorded_for_anothers_sake_while_it_is_written(
    database: Database, isolation: Isolation, written: str
) -> None:
    """Its own row is not locked by whoever records it: what is on record is only looked at under the lock of the talk."""
    talks = recording(database)
    statement = f"{written} WHERE talk = 2"
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM tags")
        # Its name cannot be held any more.
        a.run("BEGIN; UPDATE tags SET name = 'hidden' WHERE owner = 0 AND name = 't2'")
        waiting = b.start(statement)
        waiting.wait_blocked()
        a.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
            b.run("COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                waiting.result()
            b.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    # Talk 12 has the tag as well.
    right(talks, 2 if written.startswith("UPDATE") else 1)


@pytest.mark.parametrize("authority", list(Authority))
def test_repair(database: Database, authority: Authority) -> None:
    """What is recorded stays; under the new authority a link that was planted is recorded as well."""
    talks = recording(database)
    database.execute(linked(2, "x"))
    unmirrored(database, linked(4, "x"))
    assert sum(found(talks).counts.values()) == 1
    talks.repair(authority)
    assert [talk for talk, _, _ in on_record(database)] == ([2] if authority is Authority.OLD else [2, 4])
    right(talks, 1 if authority is Authority.OLD else 2)


def test_everybody_at_once(database: Database) -> None:
    """Both versions at all isolation levels on a few talks, with several tags each, of which some have no form."""
    talks = recording(database, unused="remove")
    database.execute("INSERT INTO tags (owner, name) VALUES (0, 'q'), (1, 'q')")

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        talk = rng.randrange(1, 13)
        connection.execute("SELECT 1 FROM public.talks LIMIT 1")
        statement = (
            f"UPDATE public.talks SET data = jsonb_set(data, '{{tag}}', '\"{rng.choice('xyzw')}\"') WHERE id = {talk}",
            f"UPDATE public.talks SET data = data - 'tag' WHERE id = {talk}",
            f"UPDATE public.talks SET data = jsonb_set(data, '{{n}}', '{number}') WHERE id = {talk}",
            f"UPDATE public.talks SET owner = 1 - owner WHERE id = {talk}",
        )[rng.randrange(4)]
        connection.execute(statement.encode())

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        talk, name = rng.randrange(1, 13), rng.choice(["x", "y", "z", "secret", "hidden"])
        if number % 3 == 0:
            connection.execute("SELECT 1 FROM public.talks LIMIT 1")
        statement = (
            (
                f"INSERT INTO public.talk_tags (talk, tag) SELECT {talk}, id FROM public.tags WHERE owner = {rng.randrange(2)} AND name ="
                f" '{name}' ON CONFLICT DO NOTHING"
            ),
            f"DELETE FROM public.talk_tags WHERE talk = {talk} AND tag % 2 = {rng.randrange(2)}",
            f"UPDATE public.talk_tags SET votes = votes + 1 WHERE talk = {talk}",
            f"UPDATE public.tags SET name = CASE name WHEN 'q' THEN 'hidden' ELSE 'q' END WHERE name IN ('q', 'hidden') AND owner = {number % 2}",
        )[rng.randrange(4)]
        connection.execute(statement.encode())

    with Writers(database.dsn) as writers:
        for level in LEVELS:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(40)
    writers.report.assert_only("40001", "40P01", "23503")
    recorded = int(database.value("SELECT count(*) FROM zdm.rows_without_old_form"))
    assert recorded
    right(talks, recorded)
