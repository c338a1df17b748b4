"""What the conformance suite runs normalise through: by a link and by a reference, parents made and parents there, one and several, by log."""

from __future__ import annotations

from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        setup="CREATE TABLE customers (id bigserial PRIMARY KEY, name text NOT NULL, country varchar(40));"
        " INSERT INTO customers (name, country) SELECT 'c' || g, (ARRAY['Kenya', 'Peru', 'Nepal', NULL])[g % 4 + 1]"
        " FROM generate_series(1, 300) g;",
        operations=(
            {
                "normalise": {
                    "table": "customers",
                    "columns": ["country"],
                    "parent": "countries",
                    "values": {"title": "country"},
                    "create": {
                        "columns": [
                            {"name": "id", "type": "bigint", "identity": "by default"},
                            {"name": "title", "type": "varchar(40)"},
                            {"name": "seen", "type": "timestamptz", "not_null": True, "default": "now()"},
                        ],
                        "primary_key": ["id"],
                    },
                    "link": {
                        "table": "customer_countries",
                        "source": {"customer_id": "id"},
                        "parent": {"country_id": "id"},
                    },
                    "unused": "remove",
                }
            },
        ),
        old_writes=(
            "INSERT INTO customers (name, country) VALUES ('old {n}', 'Land ' || {n} % 5)",
            "UPDATE customers SET country = 'Land ' || {n} % 7 WHERE id = {n} % 300 + 1",
            "UPDATE customers SET country = NULL WHERE id = {n} % 300 + 1",
            "UPDATE customers SET name = 'x{n}' WHERE id = {n} % 300 + 1",
            "DELETE FROM customers WHERE id = (SELECT max(id) FROM customers WHERE id > 300 AND name LIKE 'old%')",
        ),
        new_writes=(
            (
                "WITH c AS (INSERT INTO customers (name) VALUES ('new {n}') RETURNING id), p AS (INSERT INTO countries (title)"
                " VALUES ('New ' || {n}) RETURNING id)"
                " INSERT INTO customer_countries (customer_id, country_id) SELECT c.id, p.id FROM c, p"
            ),
            "UPDATE countries SET title = 'Renamed {n}' WHERE title = (SELECT min(title) FROM countries WHERE title LIKE 'New%')",
            "DELETE FROM customer_countries WHERE customer_id = {n} % 300 + 1",
            "DELETE FROM countries WHERE title = 'Renamed ' || ({n} - 5)",
        ),
        old_reads=("SELECT id, name, country FROM customers LIMIT 5",),
        new_reads=(
            (
                "SELECT c.name, p.title FROM customers c JOIN customer_countries l ON l.customer_id = c.id"
                " JOIN countries p ON p.id = l.country_id LIMIT 5"
            ),
        ),
        agree="SELECT NOT EXISTS (SELECT FROM public.customers c FULL JOIN (customer_countries l JOIN countries p ON p.id = l.country_id)"
        " ON l.customer_id = c.id WHERE c.country IS DISTINCT FROM p.title OR c.id IS NULL)"
        " AND NOT EXISTS (SELECT FROM customer_countries GROUP BY customer_id HAVING count(*) > 1)",
        after="SELECT EXISTS (SELECT FROM customer_countries) AND NOT EXISTS (SELECT FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND table_name = 'customers' AND column_name = 'country')",
    ),
    Scenario(
        setup="CREATE TABLE products (id bigserial PRIMARY KEY, label text NOT NULL, category varchar(40));"
        " INSERT INTO products (label, category) SELECT 'p' || g, (ARRAY['Books', 'Tools', 'Toys', NULL])[g % 4 + 1]"
        " FROM generate_series(1, 300) g;",
        operations=(
            {
                "normalise": {
                    "table": "products",
                    "columns": ["category"],
                    "parent": "categories",
                    "values": {"title": "category"},
                    "create": {
                        "columns": [
                            {"name": "id", "type": "bigint", "identity": "by default"},
                            {"name": "title", "type": "varchar(40)"},
                            {"name": "seen", "type": "timestamptz", "not_null": True, "default": "now()"},
                        ],
                        "primary_key": ["id"],
                    },
                    "reference": {"columns": {"category_id": "id"}, "on_delete": "set null"},
                    "unused": "remove",
                }
            },
        ),
        old_writes=(
            "INSERT INTO products (label, category) VALUES ('old {n}', 'Kind ' || {n} % 5)",
            "UPDATE products SET category = 'Kind ' || {n} % 7 WHERE id = {n} % 300 + 1",
            "UPDATE products SET category = NULL WHERE id = {n} % 300 + 1",
            "UPDATE products SET label = 'x{n}' WHERE id = {n} % 300 + 1",
            "DELETE FROM products WHERE id = (SELECT max(id) FROM products WHERE id > 300 AND label LIKE 'old%')",
        ),
        new_writes=(
            (
                "WITH c AS (INSERT INTO categories (title) VALUES ('New ' || {n}) RETURNING id)"
                " INSERT INTO products (label, category_id) SELECT 'new {n}', id FROM c"
            ),
            "INSERT INTO products (label, category_id) VALUES ('none {n}', NULL)",
            "UPDATE categories SET title = 'Renamed {n}' WHERE title = (SELECT min(title) FROM categories WHERE title LIKE 'New%')",
            "DELETE FROM categories WHERE title = 'Renamed ' || ({n} - 5)",
        ),
        old_reads=("SELECT id, label, category FROM products LIMIT 5",),
        new_reads=(
            "SELECT p.label, c.title FROM products p LEFT JOIN categories c ON c.id = p.category_id LIMIT 5",
        ),
        agree="SELECT NOT EXISTS (SELECT FROM public.products p LEFT JOIN categories c ON c.id = p.category_id"
        " WHERE p.category IS DISTINCT FROM c.title)",
        after="SELECT EXISTS (SELECT FROM products WHERE category_id IS NOT NULL) AND NOT EXISTS"
        " (SELECT FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = 'products'"
        " AND column_name = 'category')",
    ),
    # The natural key has a column that stays, the new version has a parent for every row, and its end takes the rows along.
    Scenario(
        setup="CREATE TABLE hosts (id bigserial PRIMARY KEY, tenant int NOT NULL, label text NOT NULL, zone text NOT NULL);"
        " CREATE TABLE zones (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant int NOT NULL, name text NOT NULL,"
        " colour text NOT NULL DEFAULT 'grey', UNIQUE (tenant, name));"
        " INSERT INTO zones (tenant, name, colour) VALUES (1, 'north', 'red'), (7, 'far', 'blue');"
        " INSERT INTO hosts (tenant, label, zone) SELECT g % 3, 'h' || g, (ARRAY['north', 'south'])[g % 2 + 1]"
        " FROM generate_series(1, 300) g;",
        operations=(
            {
                "normalise": {
                    "table": "hosts",
                    "columns": ["zone"],
                    "parent": "zones",
                    "values": {"tenant": "tenant", "name": "zone"},
                    "reference": {
                        "columns": {"zone_id": "id"},
                        "not_null": True,
                        "on_delete": "cascade",
                    },
                }
            },
        ),
        old_writes=(
            "INSERT INTO hosts (tenant, label, zone) VALUES ({n} % 3, 'old {n}', 'zone ' || {n} % 5)",
            "UPDATE hosts SET zone = 'zone ' || {n} % 7 WHERE id = {n} % 300 + 1",
            "UPDATE hosts SET tenant = ({n} + 1) % 3 WHERE id = {n} % 300 + 1",
            "UPDATE hosts SET label = 'x{n}' WHERE id = {n} % 300 + 1",
        ),
        new_writes=(
            (
                "WITH z AS (INSERT INTO zones (tenant, name) VALUES (1, 'new {n}') RETURNING id)"
                " INSERT INTO hosts (tenant, label, zone_id) SELECT 1, 'new {n}', id FROM z"
            ),
            "UPDATE zones SET name = 'renamed {n}' WHERE name = (SELECT min(name) FROM zones WHERE name LIKE 'new%')",
            "DELETE FROM zones WHERE name = 'renamed ' || ({n} - 5)",
        ),
        old_reads=("SELECT id, label, zone FROM hosts LIMIT 5",),
        new_reads=("SELECT h.label, z.name FROM hosts h JOIN zones z ON z.id = h.zone_id LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM public.hosts h LEFT JOIN zones z ON z.id = h.zone_id"
        " WHERE (h.tenant, h.zone) IS DISTINCT FROM (z.tenant, z.name))"
        " AND EXISTS (SELECT FROM zones WHERE tenant = 1 AND name = 'north' AND colour = 'red')",
        after="SELECT bool_and(zone_id IS NOT NULL) FROM hosts",
    ),
    # The new version gives a row several parents, of which the old one holds one, and one that it may not hold.
    Scenario(
        setup="CREATE TABLE papers (id bigserial PRIMARY KEY, title text NOT NULL, topic text CHECK (topic <> 'none'));"
        " INSERT INTO papers (title, topic) SELECT 'p' || g, (ARRAY['maps', 'bees', 'tea', NULL])[g % 4 + 1]"
        " FROM generate_series(1, 200) g;",
        operations=(
            {
                "normalise": {
                    "table": "papers",
                    "columns": ["topic"],
                    "parent": "topics",
                    "values": {"name": "topic"},
                    "create": {
                        "columns": [
                            {"name": "id", "type": "bigint", "identity": "by default"},
                            {"name": "name", "type": "text"},
                        ],
                        "primary_key": ["id"],
                    },
                    "link": {
                        "table": "paper_topics",
                        "source": {"paper": "id"},
                        "parent": {"topic": "id"},
                        "columns": [{"name": "weight", "type": "int", "default": "1"}],
                    },
                    "without_old_form": "record",
                }
            },
        ),
        old_writes=(
            "INSERT INTO papers (title, topic) VALUES ('old {n}', 'topic ' || {n} % 5)",
            "UPDATE papers SET topic = (ARRAY['maps', 'topic ' || {n} % 7, NULL])[{n} % 3 + 1] WHERE id = {n} % 200 + 1",
            "DELETE FROM papers WHERE id = (SELECT max(id) FROM papers WHERE title LIKE 'old%')",
        ),
        new_writes=(
            (
                "WITH t AS (INSERT INTO topics (name) VALUES ('new {n}'), ('more {n}') RETURNING id), p AS (INSERT INTO papers (title)"
                " VALUES ('new {n}') RETURNING id) INSERT INTO paper_topics (paper, topic) SELECT p.id, t.id FROM p, t"
            ),
            (
                "INSERT INTO paper_topics (paper, topic) SELECT l.paper, t.id FROM (SELECT min(paper) AS paper FROM paper_topics"
                " WHERE paper >= {n} % 200 + 1) l, topics t WHERE l.paper IS NOT NULL AND name IN ('maps', 'tea')"
                " ON CONFLICT (paper, topic) DO UPDATE SET weight = 2"
            ),
            (
                "DELETE FROM paper_topics WHERE paper = {n} % 200 + 1 AND topic ="
                " (SELECT min(topic) FROM paper_topics WHERE paper = {n} % 200 + 1)"
            ),
            "UPDATE topics SET name = 'none' WHERE name = 'new ' || ({n} - 9) AND NOT EXISTS (SELECT FROM topics WHERE name = 'none')",
        ),
        old_reads=("SELECT id, title, topic FROM papers LIMIT 5",),
        new_reads=(
            "SELECT p.title, t.name FROM papers p JOIN paper_topics l ON l.paper = p.id JOIN topics t ON t.id = l.topic LIMIT 5",
        ),
        agree="SELECT NOT EXISTS (SELECT FROM public.papers p FULL JOIN (SELECT l.paper, t.name FROM paper_topics l JOIN topics t ON t.id = l.topic"
        " WHERE NOT EXISTS (SELECT FROM zdm.rows_without_old_form f WHERE f.key = jsonb_build_object('paper', l.paper, 'topic', l.topic)"
        " AND f.rollout = (SELECT max(id) FROM zdm.module_migrations))) n ON n.paper = p.id"
        " WHERE p.topic IS DISTINCT FROM n.name OR p.id IS NULL) AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form f LEFT JOIN"
        " paper_topics l ON f.key = jsonb_build_object('paper', l.paper, 'topic', l.topic)"
        " WHERE f.rollout = (SELECT max(id) FROM zdm.module_migrations) AND f.new_row IS DISTINCT FROM to_jsonb(l))",
        after="SELECT (SELECT count(*) FROM paper_topics) > 100 AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form WHERE rollout ="
        " (SELECT max(id) FROM zdm.module_migrations))",
    ),
    # What follows is found or made by a reconciler.
    Scenario(
        setup="CREATE TABLE tools (id bigserial PRIMARY KEY, depot int NOT NULL, label text NOT NULL, maker text);"
        " INSERT INTO tools (depot, label, maker) SELECT g % 3, 't' || g, (ARRAY['Ames', 'Bosch', NULL])[g % 3 + 1]"
        " FROM generate_series(1, 200) g;",
        operations=(
            {
                "normalise": {
                    "table": "tools",
                    "columns": ["maker"],
                    "parent": "makers",
                    "values": {"depot": "depot", "name": "maker"},
                    "create": {
                        "columns": [
                            {"name": "id", "type": "bigint", "identity": "by default"},
                            {"name": "depot", "type": "int"},
                            {"name": "name", "type": "text"},
                        ],
                        "primary_key": ["id"],
                    },
                    "reference": {"maker_id": "id"},
                }
            },
        ),
        old_writes=(
            "INSERT INTO tools (depot, label, maker) VALUES ({n} % 3, 'old {n}', 'Maker ' || {n} % 5)",
            "UPDATE tools SET maker = (ARRAY['Ames', 'Maker ' || {n} % 7, NULL])[{n} % 3 + 1] WHERE id = {n} % 200 + 1",
            "UPDATE tools SET depot = ({n} + 1) % 3 WHERE id = {n} % 200 + 1",
            "DELETE FROM tools WHERE id = (SELECT max(id) FROM tools WHERE label LIKE 'old%')",
        ),
        new_writes=(
            (
                "WITH m AS (INSERT INTO makers (depot, name) VALUES (1, 'new {n}') RETURNING id)"
                " INSERT INTO tools (depot, label, maker_id) SELECT 1, 'new {n}', id FROM m"
            ),
            "UPDATE makers SET name = 'renamed {n}' WHERE name = (SELECT min(name) FROM makers WHERE name LIKE 'new%')",
            "UPDATE tools SET maker_id = NULL WHERE label = 'new ' || ({n} - 7)",
            "INSERT INTO makers (depot, name) VALUES (2, 'spare {n}')",
        ),
        old_reads=("SELECT id, label, maker FROM tools LIMIT 5",),
        new_reads=("SELECT t.label, m.name FROM tools t JOIN makers m ON m.id = t.maker_id LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM public.tools t LEFT JOIN makers m ON m.id = t.maker_id"
        " WHERE t.maker IS DISTINCT FROM m.name OR t.depot <> m.depot)",
        after="SELECT EXISTS (SELECT FROM tools WHERE maker_id IS NOT NULL) AND NOT EXISTS (SELECT FROM makers GROUP BY depot, name"
        " HAVING count(*) > 1)",
        sync=SyncMode.LOGGED,
    ),
)
