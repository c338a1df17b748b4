-- template: drop_schema
-- version: 1
-- parameters: schema
-- Drops a version schema with zdm's own views in it. What somebody else put into it stays, and then so does the schema.

DO $zdm$
DECLARE
    zdm_view record;
BEGIN
    IF pg_catalog.to_regnamespace(pg_catalog.quote_ident({schema})) IS NULL THEN
        RETURN;
    END IF;
    FOR zdm_view IN
        SELECT c.oid::pg_catalog.regclass AS name
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = {schema} AND c.relkind = 'v' AND pg_catalog.obj_description(n.oid, 'pg_namespace') LIKE 'zdm:%'
          AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_rewrite AS r ON r.oid = d.objid
              WHERE d.refobjid = c.oid AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.ev_class <> c.oid)
    LOOP
        EXECUTE pg_catalog.format('DROP VIEW %s', zdm_view.name);
    END LOOP;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = {schema}
        UNION ALL
        SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = {schema}
    ) THEN
        EXECUTE pg_catalog.format('DROP SCHEMA %I', {schema}::text);
    END IF;
END
$zdm$
