-- template: swap_plans
-- version: 1
-- parameters: quote, schema
-- Sessions keep the plans of expressions in their PL/pgSQL functions, with the types that the table's columns had. Used after
-- those have changed they fail (42804), in triggers and wherever else a row is read, until somebody throws them away. A change
-- of any schema makes every session do that at once; this one, of a schema of zdm's own, changes nothing.

DO {quote}
BEGIN
  -- Two at once would both want to change its row.
  PERFORM pg_catalog.pg_advisory_xact_lock('pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid::integer, n.oid::integer)
  FROM pg_catalog.pg_namespace AS n WHERE n.nspname = {schema};
  EXECUTE (
    SELECT pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, pg_catalog.pg_get_userbyid(n.nspowner))
    FROM pg_catalog.pg_namespace AS n WHERE n.nspname = {schema}
  );
END
{quote}
