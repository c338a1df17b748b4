-- template: row_drop
-- version: 1
-- parameters: quote, schema, names
-- Drops functions by their names, whatever table their arguments are of; it may be gone.

DO {quote}
DECLARE
  item pg_catalog.record;
BEGIN
  FOR item IN
    SELECT p.oid::pg_catalog.regprocedure AS function FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = {schema} AND p.proname = ANY ({names}::pg_catalog.text[])
  LOOP
    EXECUTE pg_catalog.format('DROP FUNCTION %s', item.function);
  END LOOP;
END
{quote}
