-- template: children_drop_columns
-- version: 1
-- parameters: quote, oid, columns
-- A child that was made with LIKE, and inherits since, has its columns by itself as well, and keeps them when the parent's go.

DO {quote}
DECLARE
  one pg_catalog.record;
BEGIN
  FOR one IN
    WITH RECURSIVE below (relid, level) AS (
      SELECT h.inhrelid, 1 FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = {oid}::pg_catalog.oid
      UNION SELECT h.inhrelid, b.level + 1 FROM below AS b JOIN pg_catalog.pg_inherits AS h ON h.inhparent = b.relid
    )
    SELECT b.relid::pg_catalog.regclass AS child, a.attname FROM below AS b
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = b.relid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE a.attname = ANY ({columns}::pg_catalog.text[]) ORDER BY b.level, b.relid, a.attnum
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s DROP COLUMN IF EXISTS %I', one.child, one.attname);
  END LOOP;
END
{quote}
