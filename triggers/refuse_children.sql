-- template: refuse_children
-- version: 1
-- parameters: quote, oid, called
-- What inherits from a table since the plan has rows that nobody filled, and would give its columns up with the table's.

DO {quote}
DECLARE
  zdm_child pg_catalog.text;
BEGIN
  SELECT h.inhrelid::pg_catalog.regclass::pg_catalog.text INTO zdm_child FROM pg_catalog.pg_inherits AS h
  WHERE h.inhparent = {oid}::pg_catalog.oid LIMIT 1;
  IF zdm_child IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = '55000',
      MESSAGE = pg_catalog.format('%s inherits from %s since the plan, which does not know its rows', zdm_child, {called}::pg_catalog.text),
      HINT = pg_catalog.format('Take it out until cleanup is done (ALTER TABLE %s NO INHERIT %s), then advance again.', zdm_child, {called}::pg_catalog.text);
  END IF;
END
{quote}
