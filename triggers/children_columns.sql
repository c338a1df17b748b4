-- template: children_columns
-- version: 1
-- parameters: quote, oid, columns
-- A child that has some columns by itself as well, and others not, has their successors so too: it gets them before its parent does,
-- whose columns are then merged with them. The deepest come first, since the server hands an added column down.

DO {quote}
DECLARE
  one pg_catalog.record;
BEGIN
  FOR one IN
    WITH RECURSIVE below (relid, level) AS (
      SELECT h.inhrelid, 1 FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = {oid}::pg_catalog.oid
      UNION SELECT h.inhrelid, b.level + 1 FROM below AS b JOIN pg_catalog.pg_inherits AS h ON h.inhparent = b.relid
    )
    SELECT b.relid::pg_catalog.regclass AS child, pg_catalog.string_agg('ADD COLUMN ' || m.definition, ', ' ORDER BY m.number) AS added
    FROM below AS b CROSS JOIN (VALUES {columns}) AS m (number, definition, replaced)
    WHERE (SELECT pg_catalog.bool_and(a.attislocal) FROM pg_catalog.pg_attribute AS a
           WHERE a.attrelid = b.relid AND a.attname = ANY (m.replaced) AND NOT a.attisdropped)
      AND NOT (SELECT pg_catalog.bool_and(a.attislocal) FROM pg_catalog.pg_attribute AS a
               WHERE a.attrelid = b.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount > 0)
    GROUP BY b.relid, b.level ORDER BY b.level DESC, b.relid
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s %s', one.child, one.added);
  END LOOP;
END
{quote}
