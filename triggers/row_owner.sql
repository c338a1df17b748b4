-- template: row_owner
-- version: 2
-- parameters: quote, schema, table, functions
-- The functions are the tables' owner's: what they do, and what triggers of the application they fire, has no other rights than the
-- owner has. It may use the schema, see how far backfills are, and record rows that could not be mapped; it may create there in this transaction only.

DO {quote}
DECLARE
  owner constant pg_catalog.name := (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c
    WHERE c.oid = {table}::pg_catalog.regclass);
  item pg_catalog.record;
  created boolean;
BEGIN
  IF owner = CURRENT_USER THEN
    RETURN;
  END IF;
  created := pg_catalog.has_schema_privilege(owner, {schema}, 'CREATE');
  EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I', {schema}, owner);
  EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.sync_failures TO %I', {schema}, owner);
  EXECUTE pg_catalog.format('GRANT SELECT ON %I.data_migrations TO %I', {schema}, owner);
  IF NOT created THEN
    EXECUTE pg_catalog.format('GRANT CREATE ON SCHEMA %I TO %I', {schema}, owner);
  END IF;
  FOR item IN
    SELECT p.oid::pg_catalog.regprocedure AS function FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = {schema} AND p.proname = ANY ({functions}::pg_catalog.text[])
  LOOP
    EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', item.function, owner);
  END LOOP;
  IF NOT created THEN
    EXECUTE pg_catalog.format('REVOKE CREATE ON SCHEMA %I FROM %I', {schema}, owner);
  END IF;
END
{quote}
