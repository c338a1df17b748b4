-- template: log_grants
-- version: 1
-- parameters: quote, schema, table
-- The functions that note what is written are the tables' owner's; it may add to the log, and look whether a row went before.

DO {quote}
DECLARE
  owner constant pg_catalog.name := (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c
    WHERE c.oid = {table}::pg_catalog.regclass);
BEGIN
  IF owner <> CURRENT_USER THEN
    EXECUTE pg_catalog.format('GRANT SELECT, INSERT ON %I.row_changes TO %I', {schema}, owner);
  END IF;
END
{quote}
