-- template: swap_sequence
-- version: 1
-- parameters: quote, table, old, new
-- A sequence that the old column owns goes over to its successor, as wide as that one is, and keeps everything else: its
-- name, its grants, its place. Its limits follow its type where they were the type's own.

DO {quote}
DECLARE
  item pg_catalog.record;
BEGIN
  FOR item IN
    SELECT d.objid::pg_catalog.regclass AS sequence,
      CASE WHEN t.typname IN ('int2', 'int4', 'int8') AND t.typlen > o.typlen
        THEN pg_catalog.format('AS %s', pg_catalog.format_type(t.oid, NULL)) ELSE '' END AS widened
    FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = d.objid
    JOIN pg_catalog.pg_type AS o ON o.oid = s.seqtypid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    JOIN pg_catalog.pg_attribute AS b ON b.attrelid = d.refobjid AND b.attname = {new}
    JOIN pg_catalog.pg_type AS t ON t.oid = b.atttypid
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'a'
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = {table}::pg_catalog.regclass
      AND a.attname = {old}
    ORDER BY d.objid
  LOOP
    EXECUTE pg_catalog.format('ALTER SEQUENCE %s %s OWNED BY %s.%I', item.sequence, item.widened, {table}, {new});
  END LOOP;
END
{quote}
