"""The samples of copy_columns for the conformance suite."""

from __future__ import annotations

from zdm.model.sample import Scenario

_ASSIGNEES = Scenario(
    setup="CREATE TABLE projects (id int PRIMARY KEY); INSERT INTO projects SELECT generate_series(1, 20);"
    " CREATE TABLE issues (id serial PRIMARY KEY, project_id int NOT NULL REFERENCES projects, title text);"
    " CREATE TABLE assignees (id serial PRIMARY KEY, issue_id int NOT NULL REFERENCES issues ON DELETE CASCADE, who text);"
    " CREATE INDEX ON assignees (issue_id);"
    " INSERT INTO issues (project_id, title) SELECT g % 20 + 1, 'i' || g FROM generate_series(1, 200) g;"
    " INSERT INTO assignees (issue_id, who) SELECT g % 200 + 1, 'u' || g FROM generate_series(1, 300) g;",
    operations=(
        {
            "copy_columns": {
                "table": "assignees",
                "parent": "issues",
                "columns": {"project_id": "project_id"},
                "not_null": True,
                "index": True,
                "foreign_keys": [
                    {"columns": ["project_id"], "references": {"table": "projects"}, "on_delete": "cascade"}
                ],
            }
        },
    ),
    old_writes=(
        "INSERT INTO assignees (issue_id, who) VALUES ({n} % 100 + 1, 'old {n}')",
        "UPDATE issues SET project_id = {n} % 20 + 1 WHERE id = {n} % 100 + 1",
        "UPDATE issues SET title = 'old {n}' WHERE id = {n} % 100 + 1",
        # To issues whose project nobody changes: two that go opposite ways between two that change would wait for each other.
        "UPDATE assignees SET issue_id = 101 + {n} % 19 WHERE id = {n} % 300 + 1",
        "UPDATE assignees SET who = 'w{n}' WHERE id = {n} % 300 + 1",
        "DELETE FROM issues WHERE id = 120 + {n} % 80",
        "DELETE FROM assignees WHERE who = 'old ' || ({n} - 12)",
    ),
    new_writes=(
        "INSERT INTO assignees (issue_id, project_id, who) SELECT id, project_id, 'both {n}' FROM issues WHERE id = {n} % 100 + 1",
        "INSERT INTO assignees (issue_id, project_id, who) VALUES ({n} % 100 + 1, {n} % 20 + 1, 'wrong {n}')",
        "UPDATE assignees SET project_id = {n} % 20 + 1 WHERE id = {n} % 300 + 1",
        "UPDATE issues SET project_id = ({n} + 7) % 20 + 1 WHERE id = {n} % 100 + 1",
    ),
    old_reads=("SELECT i.project_id, a.who FROM assignees a JOIN issues i ON i.id = a.issue_id LIMIT 5",),
    new_reads=("SELECT who FROM assignees WHERE project_id = 3 LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM assignees a LEFT JOIN public.issues i ON i.id = a.issue_id"
    " WHERE a.project_id IS DISTINCT FROM i.project_id) AND (SELECT count(project_id) > 100 FROM assignees)",
    after="SELECT (SELECT bool_and(attnotnull) FROM pg_attribute WHERE attrelid = 'assignees'::regclass AND attname = 'project_id')"
    " AND (SELECT count(*) = 2 AND bool_and(convalidated) FROM pg_constraint WHERE conrelid = 'assignees'::regclass AND contype = 'f')"
    " AND (SELECT count(*) = 3 FROM pg_index WHERE indrelid = 'assignees'::regclass)"
    " AND (SELECT count(*) = 1 FROM pg_index WHERE indrelid = 'issues'::regclass)"
    " AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid IN ('issues'::regclass, 'assignees'::regclass) AND NOT tgisinternal)",
)

_EVENTS = Scenario(
    setup="CREATE TABLE accounts (region int NOT NULL, id int NOT NULL, tenant uuid, plan varchar(20) NOT NULL, PRIMARY KEY (region, id));"
    " CREATE TABLE events (id serial, region int, account int, what text,"
    " FOREIGN KEY (region, account) REFERENCES accounts (region, id) ON UPDATE CASCADE ON DELETE SET NULL"
    " DEFERRABLE INITIALLY DEFERRED) PARTITION BY HASH (id);"
    " CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    " CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1); CREATE INDEX ON events (account, region);"
    " INSERT INTO accounts SELECT g % 3, g, CASE WHEN g % 5 > 0 THEN md5(g::text)::uuid END, 'p' || g % 4 FROM generate_series(1, 120) g;"
    " INSERT INTO events (region, account, what) SELECT CASE WHEN g < 3 THEN region END, id, 'e' FROM accounts, generate_series(1, 3) g;",
    operations=(
        {
            "copy_columns": {
                "table": "events",
                "parent": "accounts",
                "columns": {"tenant_id": "tenant", "plan": "plan"},
                "conflict": "refuse",
            }
        },
    ),
    old_writes=(
        "INSERT INTO events (region, account, what) SELECT region, id, 'old {n}' FROM accounts WHERE id = {n} % 60 + 1",
        "INSERT INTO events (what) VALUES ('nobody {n}')",
        # The event comes before what it refers to.
        (
            "WITH e AS (INSERT INTO events (region, account, what) VALUES (9, 1000 + {n}, 'early {n}') RETURNING region, account)"
            " INSERT INTO accounts SELECT region, account, md5('{n}')::uuid, 'early' FROM e"
        ),
        "UPDATE accounts SET tenant = md5('o{n}')::uuid, plan = 'o{n}' WHERE id = {n} % 60 + 1",
        "UPDATE accounts SET tenant = NULL WHERE id = {n} % 40 + 1",
        "UPDATE accounts SET region = 10 + {n} % 3 WHERE id = 60 + {n} % 30",
        "UPDATE events SET region = NULL WHERE id = {n} % 300 + 1",
        "DELETE FROM accounts WHERE id = 90 + {n} % 30",
    ),
    new_writes=(
        "INSERT INTO events (region, account, what) SELECT region, id, 'new {n}' FROM accounts WHERE id = {n} % 60 + 1",
        "UPDATE accounts SET tenant = md5('n{n}')::uuid WHERE id = {n} % 60 + 1",
        "UPDATE events SET what = 'new {n}' WHERE id = {n} % 300 + 1",
    ),
    old_reads=(
        "SELECT a.plan, e.what FROM events e JOIN accounts a ON (a.region, a.id) = (e.region, e.account) LIMIT 5",
    ),
    new_reads=("SELECT plan, what FROM events WHERE tenant_id IS NOT NULL LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM events e LEFT JOIN public.accounts a ON (a.region, a.id) = (e.region, e.account)"
    " WHERE (e.tenant_id, e.plan) IS DISTINCT FROM (a.tenant, a.plan)) AND (SELECT count(plan) > 50 FROM events)",
    after="SELECT count(*) = 1 AND (SELECT count(tenant_id) > 50 FROM events) FROM pg_constraint"
    " WHERE conrelid = 'events'::regclass AND contype = 'f'",
)

SCENARIOS = (_ASSIGNEES, _EVENTS)
