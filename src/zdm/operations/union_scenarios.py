"""What the conformance suite runs merge_tables of several tables through: keys told apart, keys that are one, and a key of its own."""

from __future__ import annotations

from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario

_CUSTOMERS = Scenario(
    setup="CREATE TABLE customers_eu (id bigserial PRIMARY KEY, email text NOT NULL UNIQUE, vat text);"
    " CREATE TABLE customers_us (id bigserial PRIMARY KEY, email text NOT NULL, state char(2));"
    " INSERT INTO customers_eu (email, vat) SELECT 'EU' || g, 'v' || g FROM generate_series(1, 200) g;"
    " INSERT INTO customers_us (email, state) SELECT 'US' || g, 'NY' FROM generate_series(1, 100) g;",
    operations=(
        {
            "merge_tables": {
                "tables": [
                    {
                        "table": "customers_eu",
                        "values": {"region": "'eu'"},
                        "columns": [{"column": "email", "up": "lower(email)", "type": "text"}, "vat"],
                        "down": {"email": "upper(email)"},
                    },
                    {
                        "table": "customers_us",
                        "values": {"region": "'us'"},
                        "columns": [{"column": "email", "up": "lower(email)", "type": "text"}, "state"],
                        "down": {"email": "upper(email)"},
                    },
                ],
                "to": "customers",
                "key": ["region", "id"],
                "create": {"checks": [{"name": "known", "check": "region IN ('eu', 'us')"}]},
            }
        },
    ),
    old_writes=(
        "INSERT INTO customers_eu (email) VALUES ('OLD {n}')",
        "INSERT INTO customers_us (email, state) VALUES ('OLD {n}', 'CA')",
        "UPDATE customers_eu SET vat = 'v{n}' WHERE id = {n} % 200 + 1",
        "UPDATE customers_us SET email = 'X{n}' WHERE id = {n} % 100 + 1",
        "DELETE FROM customers_us WHERE id = (SELECT max(id) FROM customers_us WHERE email LIKE 'OLD%')",
    ),
    new_writes=(
        "INSERT INTO customers (region, email) VALUES (CASE {n} % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 'new {n}')",
        "INSERT INTO customers (region, id, email) VALUES ('eu', 1000000 + {n}, 'moves {n}')",
        "UPDATE customers SET region = 'us' WHERE region = 'eu' AND id = (SELECT min(id) FROM customers WHERE region = 'eu' AND id > 1000000)",
        (
            "UPDATE customers SET region = 'eu', email = 'back {n}' WHERE region = 'us' AND id = (SELECT max(id) FROM customers"
            " WHERE region = 'us' AND id > 1000000)"
        ),
        "UPDATE customers SET email = 'n{n}' WHERE region = 'us' AND id = {n} % 100 + 1",
        "DELETE FROM customers WHERE region = 'eu' AND id = (SELECT max(id) FROM customers WHERE region = 'eu' AND email LIKE 'new%')",
    ),
    old_reads=(
        "SELECT id, email, vat FROM customers_eu LIMIT 5",
        "SELECT id, email, state FROM customers_us LIMIT 5",
    ),
    new_reads=("SELECT region, id, email, vat, state FROM customers LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM (SELECT 'eu' AS region, id, lower(email) AS email, vat, NULL AS state FROM public.customers_eu"
    " UNION ALL SELECT 'us', id, lower(email), NULL, state FROM public.customers_us) o FULL JOIN public.customers n"
    " ON (n.region, n.id) = (o.region, o.id) WHERE n.id IS NULL OR o.id IS NULL"
    " OR (n.email, n.region = 'us' OR n.vat IS NOT DISTINCT FROM o.vat, n.region = 'eu' OR n.state IS NOT DISTINCT FROM o.state)"
    " IS DISTINCT FROM (o.email, true, true))",
    after="SELECT to_regclass('customers_eu') IS NULL AND to_regclass('customers_us') IS NULL AND count(DISTINCT region) = 2"
    " AND nextval(pg_get_serial_sequence('customers', 'id')) > max(id) FILTER (WHERE id < 1000000) FROM customers",
)

_ORDERS = Scenario(
    setup="CREATE TABLE orders (id bigserial PRIMARY KEY, total numeric(12,2) NOT NULL);"
    " CREATE TABLE archived_orders (id bigint PRIMARY KEY, total numeric(12,2) NOT NULL, archived_at timestamptz NOT NULL DEFAULT now());"
    " INSERT INTO orders (total) SELECT g FROM generate_series(1, 200) g;"
    " WITH gone AS (DELETE FROM orders WHERE id % 4 = 0 RETURNING *) INSERT INTO archived_orders SELECT * FROM gone;",
    operations=(
        {
            "merge_tables": {
                "tables": [
                    {"table": "orders", "values": {"archived": False}, "columns": ["total"]},
                    {
                        "table": "archived_orders",
                        "values": {"archived": True},
                        "columns": ["total", "archived_at"],
                        "down": {"archived_at": "coalesce(archived_at, 'epoch')"},
                    },
                ],
                "to": "all_orders",
                "key": ["id"],
                "create": {"columns": [{"name": "archived", "type": "boolean", "default": "false"}]},
            }
        },
    ),
    old_writes=(
        "INSERT INTO orders (total) VALUES ({n})",
        "UPDATE orders SET total = total + 1 WHERE id = {n} % 200 + 1",
        "UPDATE archived_orders SET total = total + 1 WHERE id = {n} % 200 + 1",
        (
            "WITH gone AS (DELETE FROM orders WHERE id = {n} % 200 + 1 RETURNING *)"
            " INSERT INTO archived_orders SELECT * FROM gone"
        ),
        (
            "WITH gone AS (DELETE FROM archived_orders WHERE id = ({n} + 50) % 200 + 1 RETURNING id, total)"
            " INSERT INTO orders SELECT * FROM gone"
        ),
        "DELETE FROM orders WHERE id = (SELECT max(id) FROM orders WHERE id > 200)",
    ),
    new_writes=(
        "INSERT INTO all_orders (total) VALUES ({n})",
        "UPDATE all_orders SET archived = NOT archived, archived_at = now() WHERE id = {n} % 200 + 1",
        "UPDATE all_orders SET total = total + 1 WHERE id = {n} % 200 + 1",
        "DELETE FROM all_orders WHERE id = (SELECT max(id) FROM all_orders WHERE id > 200 AND NOT archived)",
    ),
    old_reads=(
        "SELECT id, total FROM orders LIMIT 5",
        "SELECT id, total, archived_at FROM archived_orders LIMIT 5",
    ),
    new_reads=("SELECT id, total, archived FROM all_orders LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM (SELECT id, total, false AS archived FROM public.orders UNION ALL"
    " SELECT id, total, true FROM public.archived_orders) o FULL JOIN public.all_orders n ON n.id = o.id"
    " WHERE (n.id, n.total, n.archived) IS DISTINCT FROM (o.id, o.total, o.archived))",
    after="SELECT to_regclass('orders') IS NULL AND pg_get_serial_sequence('all_orders', 'id') IS NOT NULL"
    " AND count(*) FILTER (WHERE id <= 200) = 200 AND bool_or(archived) FROM all_orders",
)

_COMMENTS = Scenario(
    setup="CREATE TABLE post_comments (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, post_id int NOT NULL, body text NOT NULL);"
    " CREATE TABLE photo_comments (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, photo_id int NOT NULL, body text NOT NULL DEFAULT '');"
    " INSERT INTO post_comments (post_id, body) SELECT g % 20, 'post ' || g FROM generate_series(1, 150) g;"
    " INSERT INTO photo_comments (photo_id, body) SELECT g % 20, 'photo ' || g FROM generate_series(1, 150) g;",
    operations=(
        {
            "merge_tables": {
                "tables": [
                    {
                        "table": "post_comments",
                        "values": {"subject": "'post'"},
                        "columns": [{"column": "subject_id", "up": "post_id"}, "body"],
                    },
                    {
                        "table": "photo_comments",
                        "values": {"subject": "'photo'"},
                        "columns": [{"column": "subject_id", "up": "photo_id"}, "body"],
                    },
                ],
                "to": "comments",
                "key": {"subject": "subject", "number": "id"},
                "create": {
                    "columns": [{"name": "id", "type": "bigint", "identity": "by default"}],
                    "primary_key": ["id"],
                },
            }
        },
    ),
    old_writes=(
        "INSERT INTO post_comments (post_id, body) VALUES ({n} % 20, 'old {n}')",
        "UPDATE photo_comments SET body = 'changed {n}' WHERE id = {n} % 150 + 1",
        "DELETE FROM post_comments WHERE id = (SELECT max(id) FROM post_comments WHERE body LIKE 'old%')",
    ),
    new_writes=(
        "INSERT INTO comments (subject, subject_id, body) VALUES (CASE {n} % 2 WHEN 0 THEN 'post' ELSE 'photo' END, 1, 'new {n}')",
        "UPDATE comments SET body = 'n{n}' WHERE subject = 'photo' AND number = {n} % 150 + 1",
        "DELETE FROM comments WHERE id = (SELECT max(id) FROM comments WHERE body LIKE 'new%' AND subject = 'post')",
    ),
    old_reads=(
        "SELECT id, post_id, body FROM post_comments LIMIT 5",
        "SELECT id, photo_id, body FROM photo_comments LIMIT 5",
    ),
    new_reads=("SELECT id, subject, number, subject_id, body FROM comments LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM (SELECT 'post' AS subject, id, post_id AS at, body FROM public.post_comments"
    " UNION ALL SELECT 'photo', id, photo_id, body FROM public.photo_comments) o FULL JOIN public.comments n"
    " ON (n.subject, n.number) = (o.subject, o.id) WHERE (n.number, n.subject_id, n.body) IS DISTINCT FROM (o.id, o.at, o.body))",
    after="SELECT to_regclass('post_comments') IS NULL AND count(*) >= 300 AND count(DISTINCT id) = count(*)"
    " AND nextval(pg_get_serial_sequence('comments', 'number')) > max(number) FROM comments",
)

#: The new version has customers elsewhere, and writes what a region's table does not take.
_ANYWHERE = _CUSTOMERS.model_copy(
    update={
        "setup": _CUSTOMERS.setup.replace("NOT NULL UNIQUE", "NOT NULL UNIQUE CHECK (email <> 'NONE')"),
        "operations": (
            {
                "merge_tables": {
                    **_CUSTOMERS.operations[0]["merge_tables"],  # type: ignore[dict-item]
                    "create": {},
                    "without_old_form": "record",
                }
            },
        ),
        "new_writes": (
            *_CUSTOMERS.new_writes,
            "INSERT INTO customers (region, id, email) VALUES ('asia', 3000000 + {n}, 'asia {n}')",
            "UPDATE customers SET email = 'none' WHERE region = 'eu' AND id = {n} % 200 + 1",
            "UPDATE customers SET region = 'us', id = 2000000 + {n} WHERE region = 'asia' AND id = (SELECT min(id) FROM customers WHERE region = 'asia')",
        ),
        "after": _CUSTOMERS.after.replace("count(DISTINCT region) = 2", "count(DISTINCT region) >= 2"),
        "agree": _CUSTOMERS.agree.replace(
            "WHERE n.id IS NULL OR o.id IS NULL",
            "WHERE n.id IS NULL OR (o.id IS NULL AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form f WHERE"
            " f.key = jsonb_build_object('region', n.region, 'id', n.id) AND f.rollout = (SELECT max(id) FROM zdm.module_migrations)))",
        ).replace(" OR (n.email", " OR o.id IS NOT NULL AND (n.email"),
    }
)

#: With a key of its own, what each version numbers meets only when it is reconciled.
_NOTED = _COMMENTS.model_copy(update={"sync": SyncMode.LOGGED})

SCENARIOS = (_CUSTOMERS, _ORDERS, _COMMENTS, _ANYWHERE, _NOTED)
