-- template: children_drop_triggers
-- version: 1
-- parameters: quote, oid, functions
-- The sync triggers of everything that inherits from a table, whichever tables that are by now.

DO {quote}
DECLARE
  one pg_catalog.record;
BEGIN
  FOR one IN
    WITH RECURSIVE below (relid) AS (
      SELECT h.inhrelid FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = {oid}::pg_catalog.oid
      UNION SELECT h.inhrelid FROM below AS b JOIN pg_catalog.pg_inherits AS h ON h.inhparent = b.relid
    )
    SELECT t.tgname, t.tgrelid::pg_catalog.regclass AS child FROM below AS b
    JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = b.relid AND NOT t.tgisinternal
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid AND pg_catalog.starts_with(p.proname, {functions})
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'zdm'
  LOOP
    EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', one.tgname, one.child);
  END LOOP;
END
{quote}
