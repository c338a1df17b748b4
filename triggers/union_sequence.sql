-- template: union_sequence
-- version: 1
-- parameters: quote, table, column, sources
-- The sequence that numbers a table that has the rows of several old ones becomes its own, if one of those owned it.

DO {quote}
DECLARE
  item pg_catalog.record;
BEGIN
  FOR item IN
    SELECT s.objid::pg_catalog.regclass AS sequence
    FROM pg_catalog.pg_attrdef AS d
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    JOIN pg_catalog.pg_depend AS u ON u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND u.objid = d.oid
      AND u.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    JOIN pg_catalog.pg_depend AS s ON s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.objid = u.refobjid
      AND s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.deptype = 'a'
    JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = s.objid
    WHERE d.adrelid = {table}::pg_catalog.regclass AND a.attname = {column}
      AND s.refobjid IN (SELECT pg_catalog.to_regclass(n) FROM pg_catalog.unnest({sources}::pg_catalog.text[]) AS n)
  LOOP
    EXECUTE pg_catalog.format('ALTER SEQUENCE %s OWNED BY %s.%I', item.sequence, {table}, {column});
  END LOOP;
END
{quote}
