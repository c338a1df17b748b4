"""A list that must not be NULL, and a table of elements that refers to others: what rows of neither version can do without."""

from __future__ import annotations

import pytest

from tests.conformance.harness import OPEN_GATES
from tests.support.dumps import dump
from tests.support.servers import Database
from zdm import Engine
from zdm.backfill.sweep import BadData
from zdm.errors import BadInput
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE authors (id text PRIMARY KEY);
INSERT INTO authors VALUES ('ann'), ('bob');
CREATE TABLE posts (id int PRIMARY KEY, author text NOT NULL, tags jsonb NOT NULL);
INSERT INTO posts VALUES (1, 'ann', '["x", "y"]'), (2, 'bob', '[]'), (3, '', '["x"]');
"""

AUTHOR: dict[str, object] = {
    "column": "author",
    "down": "coalesce((array_agg(author ORDER BY place))[1], '')",
    "empty": "''",
}
AUTHORS: dict[str, object] = {
    "table": "posts",
    "to": "post_authors",
    "key": {"post": "id"},
    "columns": [AUTHOR],
    "up": "SELECT 0, author WHERE author <> ''",
    "elements": [{"column": "place", "type": "int"}, {"column": "author", "type": "text"}],
    "element_key": ["author"],
    "order": "place",
    "create": {"foreign_keys": [{"columns": ["author"], "references": {"table": "authors"}}]},
}
TAGS: dict[str, object] = {
    "table": "posts",
    "to": "post_tags",
    "key": {"post": "id"},
    "from": {"json_array": "tags"},
    "elements": ["place", "tag"],
    "create": {},
}


def migration(*operations: dict[str, object]) -> Migration:
    return Migration.model_validate(
        {"id": "many", "operations": [{"explode": o} for o in operations], "gates": OPEN_GATES}
    )


def test_what_must_be_given_is_lent(database: Database) -> None:
    """The new version inserts a row, and its elements after it; until then the old version sees what is said of none."""
    database.execute(SETUP)
    before = dump(database)
    engine = Engine(database.dsn)
    engine.init()
    wanted = migration(AUTHORS, TAGS)
    engine.advance(wanted)
    engine.advance(wanted)
    database.execute("INSERT INTO public_many.posts (id) VALUES (10), (11)")
    old = "SELECT author, tags::text FROM posts WHERE id >= 10 ORDER BY id"
    assert database.execute(old) == [("", "[]")] * 2
    assert database.execute("SELECT post FROM post_authors WHERE post >= 10") == []
    database.execute(
        "INSERT INTO public_many.post_authors (post, place, author) VALUES (10, 0, 'bob');"
        " INSERT INTO public_many.post_tags (post, place, tag) VALUES (11, 1, 'z')"
    )
    assert database.execute(old) == [("bob", "[]"), ("", '["z"]')]
    database.execute("DELETE FROM public_many.post_authors WHERE post = 10")
    assert database.execute(old)[0] == ("", "[]")
    assert engine.verify("many").clean
    engine.rollback("many")
    assert database.execute(old) == [("", "[]"), ("", '["z"]')]
    assert dump(database) == before


def test_what_it_is_empty_with_has_no_elements(database: Database) -> None:
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()

    def refused(**column: object) -> str:
        up = column.pop("up", AUTHORS["up"])
        with pytest.raises(BadInput) as raised:
            engine.plan(migration({**AUTHORS, "up": up, "columns": [{**AUTHOR, **column}]}))
        return str(raised.value)

    assert "`up` makes elements of what author is empty with" in refused(empty="'nobody'")
    assert "`up` raises of what author is empty with: division by zero" in refused(
        up="SELECT 1 / length(author), author WHERE author <> 'bob'"
    )
    assert 'column "tags" does not exist' in refused(empty="tags::text")
    assert "`empty` means nothing" in refused(keep=True)
    assert "Say with `empty`, beside its `down`" in refused(empty=None)
    # What another column holds is no element of what this one is empty with; what its default says is noted.
    database.execute("ALTER TABLE posts ADD COLUMN editor text DEFAULT 'ann'")
    both = "SELECT p, v FROM (VALUES (0, author), (1, editor)) AS e (p, v) WHERE v <> ''"
    editor = {"column": "editor", "down": "max(author) FILTER (WHERE place = 1)"}
    found = engine.plan(
        migration({**AUTHORS, "columns": [AUTHOR, editor], "up": both, "lossy": True})
    ).findings
    assert [f.text for f in found if "gets the elements that the defaults of editor say" in f.text]
    database.execute("ALTER TABLE posts DROP COLUMN editor")
    # What comes back is told column by column.
    assert "(for example id=1 (author 'ann' as 'ANN'); id=2 (author 'bob' as 'BOB'))" in refused(
        down="upper(coalesce(max(author), ''))"
    )


def test_rows_that_refer_to_nothing_are_counted(database: Database) -> None:
    """By the plan, and named by the table they are in when the backfill meets them."""
    database.execute(
        SETUP + "INSERT INTO posts VALUES (4, 'ghost', '[]'), (5, 'ghost', '[]'), (6, 'spirit', '[]')"
    )
    engine = Engine(database.dsn)
    engine.init()

    def told(kind: str, operation: dict[str, object]) -> list[str]:
        found = Migration.model_validate(
            {"id": "many", "operations": [{kind: operation}], "gates": OPEN_GATES}
        )
        return [f.text for f in engine.plan(found).findings if f.rule == "rows-break-constraint"]

    keys = {"foreign_keys": [{"columns": ["author"], "references": {"table": "authors"}}]}
    moved = {
        "table": "posts",
        "to": "writers",
        "key": {"post": "id"},
        "columns": [{"column": "author", "empty": "''"}],
    }
    (text,) = told("move_columns", {**moved, "create": keys})
    # An empty text is a value, which no author has.
    assert text.startswith("4 rows that public.posts makes in public.writers break writers_author_fkey")
    (text,) = told("explode", AUTHORS)
    assert text.startswith(
        "3 rows that public.posts makes in public.post_authors break post_authors_author_fkey"
    )
    assert "(for example author=ghost; author=spirit)" in text
    engine.advance(migration(AUTHORS))
    with pytest.raises(BadData) as raised:
        engine.advance("many")
    text = str(raised.value)
    assert "3 rows of public.posts cannot be mapped" in text
    assert 'Key (author)=(ghost) is not present in table "authors"' in text
    database.execute("UPDATE posts SET author = 'ann' WHERE author IN ('ghost', 'spirit')")
    engine.advance("many")
    assert engine.verify("many").clean


def test_what_one_way_means_for_the_new_version(database: Database) -> None:
    """It may write columns of its own; anything else is a difference, which the plan says before the new version is deployed."""
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()
    own = {"create": {"columns": [{"name": "seen", "type": "int"}]}}
    kept = {
        "table": "authors",
        "keep": True,
        "into": [
            {
                "to": "hashes",
                "key": {"id": "id"},
                "columns": [{"column": "hash", "type": "text", "up": "md5(id)"}],
                "one_way": True,
                **own,
            }
        ],
    }
    tags = {**TAGS, **own, "one_way": True}
    wanted = Migration.model_validate(
        {"id": "many", "operations": [{"explode": tags}, {"split_table": kept}], "gates": OPEN_GATES}
    )
    told = [f.text for f in engine.plan(wanted).findings if "only read these rows until cleanup" in f.text]
    assert [text.split()[6] for text in told] == ["public.post_tags", "public.hashes"]
    engine.advance(wanted)
    engine.advance(wanted)
    database.execute("UPDATE public_many.post_tags SET seen = 1; UPDATE public_many.hashes SET seen = 1")
    assert engine.verify("many").clean
    database.execute(
        "INSERT INTO public_many.post_tags (post, place, tag) VALUES (2, 9, 'mine'); UPDATE public_many.hashes SET hash = 'mine' WHERE id = 'ann'"
    )
    assert not engine.verify("many").clean
    assert engine.advance("many").outcome == "refused"
    assert engine.verify("many", repair=True).clean
    assert engine.advance("many").outcome != "refused"
