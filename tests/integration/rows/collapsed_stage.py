"""Users whose settings are rows, and columns of the new version: the stage of the tests that write both."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.integration.rows.mirrored import MirroredElements, Repaired
from tests.integration.rows.stage import staged
from tests.support.servers import Database
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration

#: Each setting becomes a column of its own.
COLUMNS: dict[str, object] = {
    "table": "settings",
    "to": "users",
    "key": {"user_id": "id"},
    "elements": ["name", "value"],
    "into": {"columns": {"theme": "theme", "locale": "locale", "size": "size"}},
    "columns": [{"column": "size", "type": "int"}],
    "discard": ["id", "seen"],
}

#: All of them become one document.
DOCUMENT: dict[str, object] = {
    **COLUMNS,
    "into": {"json_object": "settings"},
    "columns": [],
}

BAD = """
SELECT count(*) FROM users AS u FULL JOIN
  (SELECT user_id, max(value) FILTER (WHERE name = 'theme') AS theme, max(value) FILTER (WHERE name = 'locale') AS locale,
     max(value) FILTER (WHERE name = 'size') AS size, count(*) AS n FROM settings GROUP BY user_id) AS s ON s.user_id = u.id
WHERE u.id IS NULL OR (u.theme, u.locale, u.size::text) IS DISTINCT FROM (s.theme, s.locale, s.size)
  OR coalesce(s.n, 0) <> num_nonnulls(u.theme, u.locale, u.size)
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""

BAD_DOCUMENT = """
SELECT count(*) FROM users AS u FULL JOIN
  (SELECT user_id, jsonb_object_agg(name, value) AS settings FROM settings GROUP BY user_id) AS s ON s.user_id = u.id
WHERE u.id IS NULL OR coalesce(u.settings, '{}') <> coalesce(s.settings, '{}')
"""

#: What one writes who has not met the interleavings yet.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE users SET settings = (SELECT jsonb_object_agg(name, value) FROM settings WHERE user_id = coalesce(NEW.user_id, OLD.user_id))
  WHERE id = coalesce(NEW.user_id, OLD.user_id);
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON settings FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION naive();
CREATE FUNCTION naive_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM settings WHERE user_id = NEW.id;
  INSERT INTO settings (user_id, name, value) SELECT NEW.id, key, value FROM jsonb_each_text(NEW.settings);
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER UPDATE OF settings ON users FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION naive_back();
"""


@dataclass
class Users(MirroredElements, Repaired):
    """``users`` and their ``settings``, and what keeps rows and columns in step; no engine."""

    database: Database
    rows: int = 30
    operation: dict[str, object] = field(default_factory=lambda: COLUMNS)
    naive: bool = False
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    plan: Plan = field(init=False)
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE users (id int PRIMARY KEY, name text);"
            " CREATE TABLE settings (id bigint GENERATED ALWAYS AS IDENTITY, user_id int NOT NULL REFERENCES users ON DELETE CASCADE,"
            " name varchar(12) NOT NULL, value text CHECK (value <> 'never'), seen int DEFAULT 0, PRIMARY KEY (user_id, name));"
            f" INSERT INTO users SELECT g, 'u' || g FROM generate_series(1, {self.rows}) g;"
            f" INSERT INTO settings (user_id, name, value) SELECT g, 'theme', 'light' FROM generate_series(1, {self.rows}) g WHERE g % 4 > 0;"
            f" INSERT INTO settings (user_id, name, value) SELECT g, 'size', g FROM generate_series(1, {self.rows}) g WHERE g % 2 > 0"
        )
        if self.extra:
            self.database.execute(self.extra)
        migration = Migration.model_validate(
            {"id": "try_it", "operations": [{"collapse": {**self.operation, **self.options}}]}
        )
        self.plan, self.mapping, self.rollout = staged(
            self.database, migration, naive=NAIVE if self.naive else None, new_first=True
        )

    def bad(self) -> int:
        """Rows that disagree."""
        document = "into" in self.operation and "json_object" in str(self.operation["into"])
        return int(self.database.execute(BAD_DOCUMENT if document else BAD)[0][0])

    def both(self, user: int) -> tuple[str, str]:
        """What the old version reads, and what the new one does, in the same words."""
        old = self.database.execute(
            f"SELECT coalesce(string_agg(name || '=' || value, ' ' ORDER BY name), '') FROM settings WHERE user_id = {user}"
        )
        new = self.database.execute(
            "SELECT concat_ws(' ', 'locale=' || locale, 'size=' || size, 'theme=' || theme)"
            f" FROM users WHERE id = {user}"
            if "settings" not in str(self.operation["into"])
            else "SELECT coalesce((SELECT string_agg(key || '=' || value, ' ' ORDER BY key) FROM jsonb_each_text(settings)), '')"
            f" FROM users WHERE id = {user}"
        )
        return old[0][0], new[0][0] if new else ""


def said(user: int, name: str, value: str) -> str:
    """What the old version does."""
    return (
        f"INSERT INTO settings (user_id, name, value) VALUES ({user}, '{name}', '{value}')"
        " ON CONFLICT (user_id, name) DO UPDATE SET value = EXCLUDED.value"
    )
