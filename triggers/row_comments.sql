-- template: row_comments
-- version: 1
-- parameters: quote, schema, functions, function_labels, table, triggers, trigger_labels
-- Stamps functions and triggers of a row mapping with where they come from and the hash of the definition that the server holds now.

DO {quote}
DECLARE
  path constant pg_catalog.text := pg_catalog.current_setting('search_path');
  item pg_catalog.record;
BEGIN
  PERFORM pg_catalog.set_config('search_path', '', true);
  FOR item IN
    SELECT 'FUNCTION ' || p.oid::pg_catalog.regprocedure::pg_catalog.text AS object, label, pg_catalog.pg_get_functiondef(p.oid) AS definition
    FROM ROWS FROM (pg_catalog.unnest({functions}::pg_catalog.text[]), pg_catalog.unnest({function_labels}::pg_catalog.text[])) AS f (name, label)
    JOIN pg_catalog.pg_proc AS p ON p.proname = f.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = {schema}
    UNION ALL
    SELECT pg_catalog.format('TRIGGER %I ON %s', t.tgname, t.tgrelid::pg_catalog.regclass), label, pg_catalog.pg_get_triggerdef(t.oid)
    FROM ROWS FROM (pg_catalog.unnest({triggers}::pg_catalog.text[]), pg_catalog.unnest({trigger_labels}::pg_catalog.text[])) AS f (name, label)
    JOIN pg_catalog.pg_trigger AS t ON t.tgname = f.name AND t.tgrelid = {table}::pg_catalog.regclass
  LOOP
    EXECUTE pg_catalog.format('COMMENT ON %s IS %L', item.object,
      item.label || encode(sha256(convert_to(item.definition, 'UTF8')), 'hex'));
  END LOOP;
  PERFORM pg_catalog.set_config('search_path', path, true);
END
{quote}
