-- template: children_own
-- version: 1
-- parameters: quote, oid, fresh
-- A child that has every column by itself as well (made with LIKE) has the new ones so too: NO INHERIT makes what is inherited its
-- own, and INHERIT leaves it so.

DO {quote}
DECLARE
  one pg_catalog.record;
BEGIN
  FOR one IN
    WITH RECURSIVE below (relid, parent, level) AS (
      SELECT h.inhrelid, h.inhparent, 1 FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = {oid}::pg_catalog.oid
      UNION
      SELECT h.inhrelid, h.inhparent, b.level + 1 FROM below AS b JOIN pg_catalog.pg_inherits AS h ON h.inhparent = b.relid
    )
    SELECT b.relid::pg_catalog.regclass AS child, b.parent::pg_catalog.regclass AS parent FROM below AS b
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = b.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount > 0
    GROUP BY b.relid, b.parent, b.level
    HAVING pg_catalog.bool_or(a.attislocal)
      AND pg_catalog.bool_or(NOT a.attislocal AND a.attname = ANY ({fresh}::pg_catalog.text[]))
      AND pg_catalog.bool_and(a.attislocal OR a.attname = ANY ({fresh}::pg_catalog.text[]))
    ORDER BY b.level, b.relid
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s NO INHERIT %s', one.child, one.parent);
    EXECUTE pg_catalog.format('ALTER TABLE %s INHERIT %s', one.child, one.parent);
  END LOOP;
END
{quote}
