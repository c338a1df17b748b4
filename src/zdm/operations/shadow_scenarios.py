"""What the conformance suite runs shadow_table through: partitions with a key pointing out, another key with one pointing in, and rows by log."""

from __future__ import annotations

from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        setup="CREATE TABLE kinds (name text PRIMARY KEY); INSERT INTO kinds VALUES ('click'), ('view');"
        " CREATE TABLE events (id bigserial PRIMARY KEY, happened_at timestamptz NOT NULL DEFAULT '2024-02-10',"
        " kind text NOT NULL DEFAULT 'click' REFERENCES kinds, payload jsonb, CHECK (id > 0));"
        " CREATE INDEX events_kind ON events (kind, happened_at DESC) WHERE payload IS NOT NULL;"
        " INSERT INTO events (happened_at, kind, payload) SELECT timestamptz '2024-01-01' + g * interval '7 hours',"
        " CASE g % 2 WHEN 0 THEN 'click' ELSE 'view' END, jsonb_build_object('n', g) FROM generate_series(1, 300) g;",
        operations=(
            {
                "shadow_table": {
                    "table": "events",
                    "partition_by": {"by": "range", "columns": ["happened_at"]},
                    "partitions": [
                        {"every": "month", "start": "2024-01", "end": "2024-04"},
                        {"default": True},
                    ],
                }
            },
        ),
        old_writes=(
            "INSERT INTO events (payload) VALUES ('{{\"old\": {n}}}')",
            "UPDATE events SET payload = '{{\"n\": {n}}}' WHERE id = {n} % 300 + 1",
            "UPDATE events SET happened_at = happened_at + interval '20 days' WHERE id = {n} % 300 + 1",
            "DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE payload ? 'old')",
        ),
        new_writes=(
            "INSERT INTO events (happened_at, payload) VALUES ('2024-03-01', '{{\"new\": {n}}}')",
            "UPDATE events SET happened_at = happened_at - interval '25 days', kind = 'view' WHERE id = {n} % 300 + 1",
            "UPDATE events SET payload = NULL WHERE id = {n} % 300 + 1",
            "DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE payload ? 'new')",
        ),
        old_reads=("SELECT id, happened_at, payload FROM events WHERE id < 10",),
        new_reads=("SELECT id, happened_at, payload FROM events WHERE happened_at < '2024-02-01' LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM public.events o FULL JOIN events n ON n.id = o.id"
        " WHERE (o.*)::text IS DISTINCT FROM (n.*)::text)",
        after="SELECT (SELECT relkind = 'p' FROM pg_class WHERE oid = 'events'::regclass) AND count(*) >= 200"
        " AND pg_get_serial_sequence('events', 'id') = 'public.events_id_seq'"
        " AND (SELECT count(*) = 5 AND bool_and(indisvalid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
        " WHERE c.relname LIKE 'events%_kind') AND (SELECT count(*) = 1 AND bool_and(convalidated) FROM pg_constraint"
        " WHERE conrelid = 'events'::regclass AND contype = 'f' AND conparentid = 0) FROM events",
    ),
    Scenario(
        setup="CREATE TABLE parts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant int NOT NULL DEFAULT 1,"
        " code text NOT NULL UNIQUE, price int, legacy text DEFAULT 'x', UNIQUE (tenant, id));"
        " CREATE TABLE orders (id serial PRIMARY KEY, part int REFERENCES parts ON DELETE CASCADE);"
        " INSERT INTO parts (tenant, code, price) SELECT g % 3, 'c' || g, g FROM generate_series(1, 300) g;"
        " INSERT INTO orders (part) SELECT g FROM generate_series(1, 300) g;",
        operations=(
            {
                "shadow_table": {
                    "table": "parts",
                    "primary_key": ["tenant", "id"],
                    "unique": [{"columns": ["id"], "name": "parts_id_key"}],
                    "columns": [{"column": "price", "type": "numeric(12,2)", "down": "round(price)::int"}],
                    "drop": ["legacy"],
                    "order": ["tenant", "id"],
                    "without": ["parts_tenant_id_key"],
                    "storage": {"fillfactor": 80},
                }
            },
        ),
        old_writes=(
            "INSERT INTO parts (tenant, code) VALUES (1, 'old {n}')",
            "UPDATE parts SET price = price + 1, tenant = (tenant + 1) % 3 WHERE id = {n} % 300 + 1",
            "INSERT INTO orders (part) SELECT id FROM parts WHERE id = {n} % 300 + 1",
            "DELETE FROM parts WHERE id = (SELECT max(id) FROM parts WHERE code LIKE 'old%')",
        ),
        new_writes=(
            "INSERT INTO parts (tenant, code) VALUES (2, 'new {n}')",
            "UPDATE parts SET price = price + 1.25 WHERE id = {n} % 300 + 1",
            "DELETE FROM parts WHERE code = 'new {n}'",
        ),
        old_reads=("SELECT id, tenant, code, price FROM parts LIMIT 5",),
        new_reads=("SELECT tenant, id, code, price FROM parts LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM public.parts o FULL JOIN parts n ON n.id = o.id"
        " WHERE (o.tenant, o.code, o.price) IS DISTINCT FROM (n.tenant, n.code, round(n.price)::int))",
        after="SELECT (SELECT pg_get_constraintdef(oid) = 'PRIMARY KEY (tenant, id)' FROM pg_constraint"
        " WHERE conname = 'parts_pkey') AND (SELECT reloptions = '{fillfactor=80}' FROM pg_class WHERE oid = 'parts'::regclass)"
        " AND (SELECT confrelid = 'parts'::regclass AND convalidated FROM pg_constraint WHERE conname = 'orders_part_fkey')"
        " AND (SELECT attidentity = 'a' AND attnum = 2 FROM pg_attribute WHERE attrelid = 'parts'::regclass AND attname = 'id')"
        " AND nextval('parts_id_seq') > 300",
    ),
    # Rows that the old version takes to another month are none of those that the new one writes: the server would refuse whoever
    # waits for such a row.
    Scenario(
        sync=SyncMode.LOGGED,
        setup="CREATE TABLE kinds (name text PRIMARY KEY); INSERT INTO kinds VALUES ('click'), ('view');"
        " CREATE TABLE hits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at date NOT NULL DEFAULT '2024-02-10',"
        " kind text NOT NULL DEFAULT 'click' REFERENCES kinds, seen int NOT NULL DEFAULT 0, note text, legacy text DEFAULT 'x');"
        " INSERT INTO hits (at, note) SELECT date '2024-01-01' + g % 90, 'n' || g FROM generate_series(1, 300) g;",
        operations=(
            {
                "shadow_table": {
                    "table": "hits",
                    "partition_by": {"by": "range", "columns": ["at"]},
                    "partitions": [{"every": "month", "start": "2024-01", "end": "2024-05"}],
                    "columns": [{"column": "seen", "type": "bigint"}],
                    "drop": ["legacy"],
                }
            },
        ),
        old_writes=(
            "INSERT INTO hits (note) VALUES ('old {n}')",
            "UPDATE hits SET at = date '2024-01-01' + {n} % 90, note = 'moved' WHERE id = {n} % 150 * 2 + 2",
            "UPDATE hits SET seen = {n}, legacy = 'y' WHERE id = {n} % 150 * 2 + 1",
            "DELETE FROM hits WHERE id = (SELECT max(id) FROM hits WHERE note LIKE 'old%')",
        ),
        new_writes=(
            "INSERT INTO hits (at, note) VALUES ('2024-03-01', 'new {n}')",
            "UPDATE hits SET at = date '2024-01-01' + {n} % 90, kind = 'view' WHERE id = {n} % 150 * 2 + 1",
            "UPDATE hits SET note = 'new' WHERE id = {n} % 150 * 2 + 1",
            "DELETE FROM hits WHERE id = (SELECT max(id) FROM hits WHERE note LIKE 'new %')",
        ),
        old_reads=("SELECT id, at, seen FROM hits WHERE id < 10",),
        new_reads=("SELECT id, at, seen FROM hits WHERE at < '2024-02-01' LIMIT 5",),
        agree="SELECT NOT EXISTS (SELECT FROM public.hits o FULL JOIN hits n ON n.id = o.id"
        " WHERE (o.id, o.at, o.kind, o.seen, o.note) IS DISTINCT FROM (n.id, n.at, n.kind, n.seen, n.note))",
        after="SELECT (SELECT relkind = 'p' FROM pg_class WHERE oid = 'hits'::regclass) AND count(*) >= 250"
        " AND (SELECT attidentity = 'a' FROM pg_attribute WHERE attrelid = 'hits'::regclass AND attname = 'id')"
        " AND (SELECT count(*) = 1 AND bool_and(convalidated) FROM pg_constraint"
        " WHERE conrelid = 'hits'::regclass AND contype = 'f' AND conparentid = 0) FROM hits",
    ),
)
