"""Posts whose tags are elements: the stage of the tests that write both."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.integration.rows.mirrored import MirroredElements, Repaired
from tests.integration.rows.stage import staged
from tests.support.servers import Database
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration

#: Elements that are told apart by what they are, with their place beside it.
OPERATION: dict[str, object] = {
    "table": "posts",
    "to": "tags",
    "key": {"post": "id"},
    "columns": [{"column": "tags", "down": "coalesce(string_agg(tag, ',' ORDER BY place, tag), '')"}],
    "elements": [
        {"column": "tag", "type": "varchar(12)"},
        {"column": "place", "type": "int", "not_null": True},
    ],
    "up": "SELECT tag, place FROM unnest(string_to_array(tags, ',')) WITH ORDINALITY AS e (tag, place)",
    "order": "place",
    "create": {
        "columns": [
            {"name": "id", "type": "bigint", "identity": "always"},
            {"name": "votes", "type": "int", "default": "0"},
        ],
        "primary_key": ["id"],
        "foreign_key": None,
    },
}


#: The same where the list is one column, which holds one element or none.
COLUMNS: dict[str, object] = {
    "columns": [],
    "up": None,
    "order": None,
    "from": {"columns": ["tags"]},
    "elements": [{"column": "place", "type": "int"}, {"column": "tag", "type": "text"}],
    "element_key": ["place"],
}


BAD = """
SELECT count(*) FROM posts AS p FULL JOIN
  (SELECT post, string_agg(tag, ',' ORDER BY place, tag) AS tags FROM tags GROUP BY post) AS t ON t.post = p.id
WHERE p.id IS NULL OR coalesce(p.tags, '') <> coalesce(t.tags, '')
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""


#: What one writes who has not met the interleavings yet.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM tags WHERE post = OLD.id;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO tags (post, tag, place)
    SELECT NEW.id, tag, place FROM unnest(string_to_array(NEW.tags, ',')) WITH ORDINALITY AS e (tag, place);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER UPDATE OR DELETE ON posts FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION naive();
CREATE FUNCTION naive_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE posts SET tags = (SELECT coalesce(string_agg(tag, ',' ORDER BY place, tag), '') FROM tags WHERE post = coalesce(NEW.post, OLD.post))
  WHERE id = coalesce(NEW.post, OLD.post);
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON tags FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION naive_back();
"""


@dataclass
class Posts(MirroredElements, Repaired):
    """``posts`` with a list of tags in a text, empty ``tags``, and what mirrors them; no engine."""

    database: Database
    rows: int = 30
    naive: bool = False
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    sync: str = "immediate"
    plan: Plan = field(init=False)
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE posts (id int PRIMARY KEY, title text, tags text NOT NULL DEFAULT '', data jsonb)"
        )
        self.database.execute(
            "INSERT INTO posts (id, title, tags) SELECT g, 'p' || g, (ARRAY['a,b', 'c', '', 'a,c,d'])[g % 4 + 1]"
            f" FROM generate_series(1, {self.rows}) g"
        )
        if self.extra:
            self.database.execute(self.extra)
        migration = Migration.model_validate(
            {
                "id": "try_it",
                "sync": self.sync,
                "operations": [{"explode": {**OPERATION, **self.options}}],
            }
        )
        self.plan, self.mapping, self.rollout = staged(
            self.database, migration, naive=NAIVE if self.naive else None, new_first=True
        )

    def bad(self) -> int:
        """Rows that disagree."""
        return int(self.database.execute(BAD)[0][0])

    def both(self, post: int) -> tuple[object, object]:
        """What the old version reads, and what the new one does."""
        old = self.database.execute(f"SELECT tags FROM posts WHERE id = {post}")
        new = self.database.execute(
            f"SELECT string_agg(tag, ',' ORDER BY place, tag) FROM tags WHERE post = {post}"
        )
        return (old[0][0] if old else None), new[0][0]


def tagged(post: int, tags: str) -> str:
    return f"UPDATE posts SET tags = '{tags}' WHERE id = {post}"


def added(post: int, tag: str, place: int = 9) -> str:
    return f"INSERT INTO tags (post, tag, place) VALUES ({post}, '{tag}', {place})"
