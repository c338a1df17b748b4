-- template: closed_columns
-- version: 1
-- parameters: quote, direct, table, columns, function, inserted, updated
-- A column with a default has a value in the old version's rows as well, so that an INSERT with one does not tell who writes.

DO {quote}
DECLARE
  zdm_column pg_catalog.record;
BEGIN
  FOR zdm_column IN
    SELECT pg_catalog.quote_ident(a.attname) AS name, pg_catalog.quote_ident(c.inserted) AS inserted, pg_catalog.quote_ident(c.updated) AS updated,
      NOT a.atthasdef AND a.attidentity OPERATOR(pg_catalog.=) '' AS tells
    FROM ROWS FROM (pg_catalog.unnest({columns}::pg_catalog.text[]), pg_catalog.unnest({inserted}::pg_catalog.text[]),
      pg_catalog.unnest({updated}::pg_catalog.text[])) AS c(name, inserted, updated)
    JOIN pg_catalog.pg_attribute AS a ON a.attname OPERATOR(pg_catalog.=) c.name::pg_catalog.name AND NOT a.attisdropped
      AND a.attrelid OPERATOR(pg_catalog.=) {table}::pg_catalog.regclass::pg_catalog.oid
  LOOP
    EXECUTE pg_catalog.format('CREATE OR REPLACE TRIGGER %s BEFORE UPDATE OF %s ON %s FOR EACH ROW'
      ' WHEN (%s) EXECUTE FUNCTION %s()',
      zdm_column.updated, zdm_column.name, {table}, {direct}, {function});
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %s', {table}, zdm_column.updated);
    IF zdm_column.tells THEN
      EXECUTE pg_catalog.format('CREATE OR REPLACE TRIGGER %s BEFORE INSERT ON %s FOR EACH ROW'
        ' WHEN (%s AND NEW.%s IS DISTINCT FROM NULL) EXECUTE FUNCTION %s()',
        zdm_column.inserted, {table}, {direct}, zdm_column.name, {function});
      EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %s', {table}, zdm_column.inserted);
    END IF;
  END LOOP;
END
{quote}
