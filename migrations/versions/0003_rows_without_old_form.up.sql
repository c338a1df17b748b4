-- Rows of the new version that the old one cannot hold, where an operation says `without_old_form: record`.
--
-- Triggers keep it in step with the rows, in the application's transaction, so that a rollback finds them here as they were when it came. No
-- foreign key leads to the rollout, because its check would lock that row and need a right on it.

CREATE TABLE zdm.rows_without_old_form (
    rollout     bigint NOT NULL,
    mapping     integer NOT NULL,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    key         jsonb NOT NULL,
    new_row     jsonb NOT NULL,
    old_row     jsonb,
    sqlstate    text NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (rollout, mapping, key)
);
COMMENT ON TABLE zdm.rows_without_old_form IS 'Rows of the new version that have no old form, whole; removed when a row goes or gets one. Those that are here when a rollback takes their table away are kept.';
COMMENT ON COLUMN zdm.rows_without_old_form.mapping IS 'The row mapping''s number in the plan.';
COMMENT ON COLUMN zdm.rows_without_old_form.schema_name IS 'With table_name: the new version''s table.';
COMMENT ON COLUMN zdm.rows_without_old_form.key IS 'The row''s key columns and their values.';
COMMENT ON COLUMN zdm.rows_without_old_form.new_row IS 'The row as it was last written.';
COMMENT ON COLUMN zdm.rows_without_old_form.old_row IS 'The row that it had in the old version until it lost its form there; NULL if there was none.';
COMMENT ON COLUMN zdm.rows_without_old_form.reason IS 'What the old version''s table or the mapping said to it.';

ALTER TABLE zdm.verifications ADD COLUMN without_old_form bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN zdm.verifications.without_old_form IS 'Rows of the new version that were recorded as having no old form; no mismatch.';
