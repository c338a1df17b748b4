-- template: children_own
-- version: 1
-- parameters: quote, memory
-- A child that has every column by itself as well (made with LIKE) has the new ones so too: NO INHERIT makes what is inherited its
-- own, and INHERIT leaves it so. See children_remember.

DO {quote}
DECLARE
  one pg_catalog.record;
BEGIN
  FOR one IN
    SELECT r.* FROM ROWS FROM (pg_catalog.jsonb_to_recordset(
      COALESCE(NULLIF(pg_catalog.current_setting({memory})::pg_catalog.jsonb -> 'own', 'null'), '[]')) AS (child text, parent text))
      WITH ORDINALITY AS r (child, parent, number) ORDER BY r.number
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s NO INHERIT %s', one.child, one.parent);
    EXECUTE pg_catalog.format('ALTER TABLE %s INHERIT %s', one.child, one.parent);
  END LOOP;
END
{quote}
