-- template: schema_drop
-- version: 1
-- parameters: quote, schema, label, views, needed
-- Drops zdm's own views in a version schema, and the schema if zdm made it and nothing else is in it. Never CASCADE: if
-- something of somebody else's stands on a view, this stops with the server's own words. Nothing is dropped while it is needed.

DO {quote}
DECLARE
  item pg_catalog.record;
BEGIN
  IF {needed} THEN
    RAISE NOTICE 'another rollout needs schema %, which stays', {schema};
    RETURN;
  END IF;
  FOR item IN
    SELECT c.relname
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = {schema} AND c.relkind = 'v'
      AND pg_catalog.starts_with(pg_catalog.obj_description(c.oid, 'pg_class'), {views})
  LOOP
    EXECUTE pg_catalog.format('DROP VIEW %I.%I', {schema}, item.relname);
  END LOOP;
  IF EXISTS (
    SELECT FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname = {schema} AND pg_catalog.obj_description(n.oid, 'pg_namespace') = {label}
  ) THEN
    BEGIN
      EXECUTE pg_catalog.format('DROP SCHEMA %I', {schema});
    EXCEPTION WHEN dependent_objects_still_exist THEN
      RAISE NOTICE 'schema % is not empty and stays', {schema};
    END;
  END IF;
END
{quote}
