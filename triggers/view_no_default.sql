-- template: view_no_default
-- version: 1
-- parameters: quote, view, column
-- No default in this version although the table's column has one. A plain DEFAULT NULL would not be stored, and the table's
-- would apply; an expression that is always NULL is.

DO {quote}
BEGIN
  EXECUTE (
    SELECT pg_catalog.format('ALTER VIEW %s ALTER COLUMN %I SET DEFAULT CASE WHEN true THEN CAST(NULL AS %s) END',
      {view}::pg_catalog.text, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = {view}::pg_catalog.regclass AND a.attname = {column}
  );
END
{quote}
