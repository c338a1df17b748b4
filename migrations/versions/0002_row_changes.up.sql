-- The log of rows that were written and have to be brought to agree with another table (`sync: logged`).
--
-- It is written by triggers in the application's transaction and read by whoever reconciles. No foreign key leads to the
-- rollout, because its check would lock that row and need a right on it.

CREATE TABLE zdm.row_changes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout bigint NOT NULL,
    mapping integer NOT NULL,
    side    text NOT NULL CHECK (side IN ('old', 'new')),
    event   text NOT NULL CHECK (event IN ('insert', 'update', 'delete', 'key', 'truncate')),
    key     text[] CHECK ((key IS NULL) = (event = 'truncate')),
    was     text[] CHECK ((was IS NULL) = (event <> 'key')),
    parts   integer[],
    origin  bigint,
    failed  boolean NOT NULL DEFAULT false,
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
-- A key may be as long as its own index allows, so that a B-tree could refuse the application's write. Neither index begins with the
-- rollout: without statistics, as of a table that is mostly empty, the planner would think that the better one.
CREATE INDEX row_changes_key ON zdm.row_changes USING hash (key);
CREATE INDEX row_changes_truncate ON zdm.row_changes (id) WHERE event = 'truncate';
CREATE INDEX row_changes_was ON zdm.row_changes USING hash (was) WHERE was IS NOT NULL;
COMMENT ON TABLE zdm.row_changes IS 'Rows written on one side of a row mapping that is synced by log; `zdm reconcile` brings both sides to agree and removes them.';
COMMENT ON COLUMN zdm.row_changes.id IS 'Taken while the row is locked: of one row the order of its versions, across both sides the order that decides who was later.';
COMMENT ON COLUMN zdm.row_changes.mapping IS 'The row mapping''s number in the plan.';
COMMENT ON COLUMN zdm.row_changes.key IS 'The row''s key as text; NULL for TRUNCATE.';
COMMENT ON COLUMN zdm.row_changes.was IS 'The key that the row had before.';
COMMENT ON COLUMN zdm.row_changes.parts IS 'Which independent parts of the mapping were written; NULL means all.';
COMMENT ON COLUMN zdm.row_changes.origin IS 'The entry of the TRUNCATE that this deletion stands for.';
COMMENT ON COLUMN zdm.row_changes.failed IS 'The row has no form on the other side at present; looked at again when it is written again.';

CREATE TABLE zdm.row_conflicts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout     bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    key         text[] NOT NULL,
    won         text NOT NULL CHECK (won IN ('old', 'new')),
    lost        jsonb,
    kept        jsonb,
    reason      text NOT NULL DEFAULT '',
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX row_conflicts_rollout ON zdm.row_conflicts (rollout);
COMMENT ON TABLE zdm.row_conflicts IS 'Writes that lost, because both versions wrote the same part of a row before either saw the other''s, or because the other side could not hold them. Kept after the rollout.';
COMMENT ON COLUMN zdm.row_conflicts.schema_name IS 'With table_name: the row mapping''s id.';
COMMENT ON COLUMN zdm.row_conflicts.won IS 'The side whose write stayed.';
COMMENT ON COLUMN zdm.row_conflicts.lost IS 'What the other side held; NULL for a deletion.';
