-- template: record_grants
-- version: 2
-- parameters: quote, schema, table
-- The functions that record rows are the tables' owner's; it may keep the record, what lost, and the notes.

DO {quote}
DECLARE
  owner constant pg_catalog.name := (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c
    WHERE c.oid = {table}::pg_catalog.regclass);
BEGIN
  IF owner <> CURRENT_USER THEN
    EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.rows_without_old_form TO %I', {schema}, owner);
    EXECUTE pg_catalog.format('GRANT SELECT, UPDATE ON %I.row_meetings TO %I', {schema}, owner);
    EXECUTE pg_catalog.format('GRANT INSERT ON %I.row_conflicts TO %I', {schema}, owner);
  END IF;
END
{quote}
