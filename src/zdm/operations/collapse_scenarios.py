"""The scenarios of collapse."""

from __future__ import annotations

from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario

_TOTALS = Scenario(
    setup="CREATE TABLE payments (id bigserial PRIMARY KEY, order_id bigint, amount numeric(10,2) NOT NULL, status text NOT NULL, at int NOT NULL);"
    " CREATE INDEX ON payments (order_id); INSERT INTO payments (order_id, amount, status, at)"
    " SELECT nullif(g % 120, 0), g, 's' || g % 7, g FROM generate_series(1, 300) g;",
    operations=(
        {
            "collapse": {
                "table": "payments",
                "to": "order_totals",
                "key": {"order_id": "order_id"},
                "create": {"columns": [{"name": "note", "type": "text"}]},
                "columns": [
                    {"column": "paid", "type": "numeric(12,2)", "up": "sum(amount)"},
                    {"column": "last_status", "latest": "status", "by": ["at"]},
                ],
                "one_way": True,
            }
        },
    ),
    old_writes=(
        "INSERT INTO payments (order_id, amount, status, at) VALUES ({n} % 150 + 1, 1, 'old {n}', 1000 + {n})",
        "INSERT INTO payments (order_id, amount, status, at) VALUES (1000 + {n}, 2, 'first {n}', {n})",
        "UPDATE payments SET status = 'late {n}', amount = amount + 1 WHERE id = {n} % 300 + 1",
        "UPDATE payments SET order_id = 5000 + {n} WHERE id = {n} % 300 + 1",
        "DELETE FROM payments WHERE id = (SELECT max(id) FROM payments WHERE status LIKE 'first%')",
    ),
    new_writes=(
        "INSERT INTO payments (order_id, amount, status, at) VALUES ({n} % 150 + 1, 3, 'new {n}', 5000 + {n})",
        "UPDATE order_totals SET note = 'noted {n}' WHERE order_id = {n} % 100 + 1",
        "DELETE FROM payments WHERE order_id = 1000 + {n} / 2",
    ),
    old_reads=("SELECT order_id, status FROM payments ORDER BY at DESC LIMIT 5",),
    new_reads=("SELECT order_id, paid, last_status FROM order_totals LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM order_totals t FULL JOIN (SELECT order_id, sum(amount) AS paid,"
    " (array_agg(status ORDER BY at DESC, id DESC))[1] AS last_status FROM public.payments WHERE order_id IS NOT NULL GROUP BY order_id) p"
    " USING (order_id) WHERE (t.paid, t.last_status) IS DISTINCT FROM (p.paid, p.last_status))",
    after="SELECT count(*) > 100 AND sum(paid) > 200 FROM order_totals WHERE last_status IS NOT NULL",
)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        setup="CREATE TABLE orders (id bigserial PRIMARY KEY, note text); CREATE TABLE events (id bigserial PRIMARY KEY,"
        " order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, status text NOT NULL, at int NOT NULL);"
        " CREATE INDEX ON events (order_id); INSERT INTO orders (note) SELECT 'o' || g FROM generate_series(1, 200) g;"
        " INSERT INTO events (order_id, status, at) SELECT g % 150 + 1, 's' || g % 7, g FROM generate_series(1, 300) g;",
        operations=(
            {
                "collapse": {
                    "table": "events",
                    "to": "orders",
                    "key": {"order_id": "id"},
                    "columns": [
                        {"column": "last_status", "latest": "status", "by": ["at"]},
                        {"column": "changes", "type": "bigint", "up": "count(*)"},
                    ],
                    "one_way": True,
                }
            },
        ),
        old_writes=(
            "INSERT INTO events (order_id, status, at) VALUES ({n} % 150 + 1, 'old {n}', 1000 + {n})",
            "UPDATE events SET status = 'late {n}' WHERE id = {n} % 300 + 1",
            "DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE status LIKE 'old%')",
            "INSERT INTO orders (note) VALUES ('old {n}')",
        ),
        new_writes=(
            "INSERT INTO orders (note) VALUES ('new {n}')",
            "UPDATE orders SET note = 'noted {n}' WHERE id = {n} % 200 + 1",
            "INSERT INTO events (order_id, status, at) VALUES ({n} % 150 + 1, 'new {n}', 5000 + {n})",
        ),
        old_reads=("SELECT order_id, status FROM events ORDER BY at DESC LIMIT 5",),
        new_reads=("SELECT id, last_status, changes FROM orders LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM orders o WHERE (o.last_status, o.changes) IS DISTINCT FROM ((SELECT e.status FROM public.events e"
        " WHERE e.order_id = o.id ORDER BY at DESC, e.id DESC LIMIT 1), (SELECT count(*) FROM public.events e WHERE e.order_id = o.id)))",
        after="SELECT count(*) > 100 AND sum(changes) > 200 FROM orders WHERE last_status IS NOT NULL",
    ),
    Scenario(
        setup="CREATE TABLE orders (id bigserial PRIMARY KEY, note text); CREATE TABLE events (id bigserial PRIMARY KEY,"
        " order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, status text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());"
        " CREATE INDEX ON events (order_id); INSERT INTO orders (note) SELECT 'o' || g FROM generate_series(1, 100) g;"
        " INSERT INTO events (order_id, status) SELECT g % 80 + 1, 's' || g % 7 FROM generate_series(1, 200) g;",
        operations=(
            {
                "collapse": {
                    "table": "events",
                    "to": "orders",
                    "key": {"order_id": "id"},
                    "columns": [
                        {"column": "last_status", "latest": "status", "by": ["at"]},
                        {"column": "changes", "type": "bigint", "up": "count(*)"},
                    ],
                    "write_back": {"insert": {"status": "last_status", "at": "clock_timestamp()"}},
                }
            },
        ),
        old_writes=(
            "INSERT INTO events (order_id, status) VALUES ({n} % 80 + 1, 'old {n}')",
            "DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE status LIKE 'old%')",
        ),
        new_writes=(
            "UPDATE orders SET last_status = 'new {n}' WHERE id = {n} % 80 + 1",
            "INSERT INTO orders (note, last_status) VALUES ('new {n}', 'born {n}')",
        ),
        old_reads=("SELECT order_id, status FROM events ORDER BY at DESC LIMIT 5",),
        new_reads=("SELECT id, last_status, changes FROM orders LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM orders o WHERE (o.last_status, o.changes) IS DISTINCT FROM ((SELECT e.status FROM public.events e"
        " WHERE e.order_id = o.id ORDER BY at DESC, e.id DESC LIMIT 1), (SELECT count(*) FROM public.events e WHERE e.order_id = o.id)))",
        after="SELECT sum(changes) > 100 AND count(last_status) >= 80 FROM orders",
    ),
    _TOTALS,
    _TOTALS.model_copy(update={"sync": SyncMode.LOGGED}),
    Scenario(
        setup="CREATE TABLE readings (id bigserial PRIMARY KEY, sensor text NOT NULL, day date NOT NULL, value int NOT NULL);"
        " CREATE INDEX ON readings (sensor, day); INSERT INTO readings (sensor, day, value)"
        " SELECT 's' || g % 20, date '2024-01-01' + g % 10, g FROM generate_series(1, 300) g;",
        operations=(
            {
                "collapse": {
                    "table": "readings",
                    "to": "daily",
                    "key": {"day": "day", "sensor": "sensor"},
                    "create": {"columns": [{"name": "note", "type": "text"}]},
                    "columns": [
                        {"column": "highest", "type": "int", "up": "max(value)"},
                        {"column": "n", "type": "bigint", "up": "count(*)"},
                    ],
                    "one_way": True,
                    "drop": True,
                }
            },
        ),
        old_writes=(
            "INSERT INTO readings (sensor, day, value) VALUES ('new {n}', '2024-05-01', {n}), ('new {n}', '2024-05-01', 1)",
            "INSERT INTO readings (sensor, day, value) VALUES ('s1', '2024-01-02', {n})",
            "DELETE FROM readings WHERE sensor = 'new ' || {n} / 2",
            "UPDATE readings SET day = day + 1000 WHERE id = {n} % 300 + 1 AND day < '2024-12-01'",
        ),
        new_writes=("UPDATE daily SET note = 'noted {n}' WHERE sensor = 's' || {n} % 20",),
        old_reads=("SELECT sensor, max(value) FROM readings GROUP BY sensor LIMIT 5",),
        new_reads=("SELECT sensor, day, highest FROM daily LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM daily t FULL JOIN (SELECT sensor, day, max(value) AS highest, count(*) AS n FROM public.readings"
        " GROUP BY sensor, day) r USING (sensor, day) WHERE (t.highest, t.n) IS DISTINCT FROM (r.highest, r.n))",
        after="SELECT count(*) > 20 AND bool_and(n > 0) AND to_regclass('public.readings') IS NULL FROM daily",
    ),
    # Settings become columns of their own; the table has others as well, which nobody needs any more.
    Scenario(
        setup="CREATE TABLE users (id bigserial PRIMARY KEY, name text NOT NULL); CREATE TABLE preferences (id bigserial, user_id bigint NOT NULL"
        " REFERENCES users ON DELETE CASCADE, name varchar(20) NOT NULL, value text, PRIMARY KEY (user_id, name));"
        " INSERT INTO users (name) SELECT 'u' || g FROM generate_series(1, 300) g; INSERT INTO preferences (user_id, name, value)"
        " SELECT g, k, CASE k WHEN 'digest' THEN 'true' ELSE k || g % 7 END FROM generate_series(1, 300) g, unnest(ARRAY['theme', 'digest', 'legacy']) k"
        " WHERE g % 5 > 0 AND (g % 3 > 0 OR k <> 'digest');",
        operations=(
            {
                "collapse": {
                    "table": "preferences",
                    "to": "users",
                    "key": {"user_id": "id"},
                    "elements": ["name", "value"],
                    "where": "name IN ('theme', 'digest')",
                    "into": {"columns": {"theme": "theme", "digest": "wants_digest"}},
                    "columns": [
                        {"column": "theme", "empty": "'light'", "not_null": True},
                        {"column": "wants_digest", "type": "boolean"},
                    ],
                    "discard": ["id"],
                    "drop": True,
                }
            },
        ),
        old_writes=(
            (
                "WITH u AS (INSERT INTO users (name) VALUES ('old {n}') RETURNING id)"
                " INSERT INTO preferences (user_id, name, value) SELECT id, k, 'true' FROM u, unnest(ARRAY['theme', 'digest', 'legacy']) k"
            ),
            (
                "INSERT INTO preferences (user_id, name, value) SELECT id, 'theme', 'o{n}' FROM users WHERE id = {n} % 300 + 1"
                " ON CONFLICT (user_id, name) DO UPDATE SET value = EXCLUDED.value"
            ),
            "UPDATE preferences SET value = 'false' WHERE user_id = {n} % 300 + 1 AND name = 'digest'",
            "DELETE FROM preferences WHERE user_id = {n} % 300 + 1 AND name <> 'legacy'",
            (
                "UPDATE preferences SET user_id = {n} % 100 + 1 WHERE name = 'legacy' AND user_id = {n} % 300 + 1 AND NOT EXISTS"
                " (SELECT FROM preferences o WHERE o.user_id = {n} % 100 + 1 AND o.name = 'legacy')"
            ),
            "DELETE FROM users WHERE id = (SELECT max(id) FROM users WHERE name LIKE 'old%')",
        ),
        new_writes=(
            "INSERT INTO users (name, theme, wants_digest) VALUES ('new {n}', 'n{n}', true)",
            "INSERT INTO users (name) VALUES ('new {n}')",
            "UPDATE users SET wants_digest = NOT wants_digest WHERE id = {n} % 300 + 1 AND theme <> 'light'",
            "UPDATE users SET theme = 'n{n}' WHERE id = {n} % 300 + 1 AND theme <> 'light'",
            "UPDATE users SET theme = 'light', wants_digest = NULL WHERE name = 'new ' || ({n} - 11)",
            "DELETE FROM users WHERE name = 'new ' || ({n} - 25)",
        ),
        old_reads=("SELECT u.name, p.value FROM users u JOIN preferences p ON p.user_id = u.id LIMIT 5",),
        new_reads=("SELECT name, theme, wants_digest FROM users LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM users u LEFT JOIN (SELECT user_id, max(value) FILTER (WHERE name = 'theme') AS theme,"
        " max(value) FILTER (WHERE name = 'digest') AS digest FROM public.preferences GROUP BY user_id) p ON p.user_id = u.id"
        " WHERE (u.theme, u.wants_digest::text) IS DISTINCT FROM (coalesce(p.theme, 'light'), p.digest))",
        after="SELECT to_regclass('public.preferences') IS NULL AND bool_and(theme IS NOT NULL) AND count(wants_digest) > 100 FROM users",
    ),
    # Tags in an order, which leaves gaps in the rows; they keep their rows wherever they come to stand.
    Scenario(
        setup="CREATE TABLE posts (id serial PRIMARY KEY, title text); CREATE TABLE tags (id bigserial PRIMARY KEY, post_id int NOT NULL"
        " REFERENCES posts ON UPDATE CASCADE ON DELETE CASCADE, tag varchar(20) NOT NULL, place int NOT NULL, UNIQUE (post_id, tag));"
        " INSERT INTO posts (title) SELECT 'p' || g FROM generate_series(1, 200) g; INSERT INTO tags (post_id, tag, place)"
        " SELECT g, t, 10 * n FROM generate_series(1, 200) g, unnest(ARRAY['red', 'blue', 'flat', 'round']) WITH ORDINALITY AS t (t, n) WHERE (g + n) % 3 > 0;",
        operations=(
            {
                "collapse": {
                    "table": "tags",
                    "to": "posts",
                    "key": {"post_id": "id"},
                    "elements": ["place", "tag"],
                    "element_key": ["tag"],
                    "into": {"array": "tags"},
                    "discard": ["id"],
                }
            },
        ),
        old_writes=(
            "INSERT INTO posts (title) VALUES ('old {n}')",
            "INSERT INTO tags (post_id, tag, place) SELECT id, 'old {n}', {n} FROM posts WHERE id = {n} % 200 + 1",
            "UPDATE tags SET place = -place WHERE post_id = {n} % 200 + 1 AND tag = 'blue'",
            "DELETE FROM tags WHERE post_id = {n} % 200 + 1 AND tag LIKE 'old%'",
            "UPDATE posts SET id = 100000 + {n} WHERE title = 'old ' || ({n} - 12)",
        ),
        new_writes=(
            "INSERT INTO posts (title, tags) VALUES ('new {n}', ARRAY['x', 'n{n}', 'a'])",
            "UPDATE posts SET tags = array_append(tags, 'more {n}') WHERE id = {n} % 200 + 1 AND tags IS NOT NULL",
            "UPDATE posts SET tags = array_remove(tags, 'red') WHERE id = {n} % 200 + 1 AND tags IS NOT NULL",
            "UPDATE posts SET tags = ARRAY['last', 'first'] WHERE title = 'new ' || ({n} - 11)",
            "UPDATE posts SET tags = NULL WHERE title = 'new ' || ({n} - 23)",
        ),
        old_reads=(
            "SELECT p.title, t.tag FROM posts p JOIN tags t ON t.post_id = p.id ORDER BY t.post_id, t.place LIMIT 5",
        ),
        new_reads=("SELECT title, tags FROM posts WHERE 'red' = ANY (tags) LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM posts p LEFT JOIN (SELECT post_id, array_agg(tag::text ORDER BY place, tag) AS tags"
        " FROM public.tags GROUP BY post_id) t ON t.post_id = p.id WHERE coalesce(p.tags::text[], ARRAY[]::text[]) <> coalesce(t.tags, ARRAY[]::text[]))",
        after="SELECT count(*) > 150 AND to_regclass('public.tags') IS NOT NULL FROM posts WHERE tags IS NOT NULL",
    ),
)
