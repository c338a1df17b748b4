-- template: schema_create
-- version: 1
-- parameters: quote, schema, target, label
-- A version schema: whoever may look into the target schema may look into it. Marked as zdm's own only if it is new.

DO {quote}
DECLARE
  item pg_catalog.record;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {schema}) THEN
    EXECUTE pg_catalog.format('CREATE SCHEMA %I', {schema});
    EXECUTE pg_catalog.format('COMMENT ON SCHEMA %I IS %L', {schema}, {label});
  END IF;
  FOR item IN
    SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(a.grantee)) END AS grantee
    FROM pg_catalog.pg_namespace AS n,
      pg_catalog.aclexplode(COALESCE(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) AS a
    WHERE n.nspname = {target} AND a.privilege_type = 'USAGE'
  LOOP
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %s', {schema}, item.grantee);
  END LOOP;
END
{quote}
