-- template: grant_schema
-- version: 1
-- parameters: schema, like
-- Lets everybody who may use one schema use another: a version schema has the rights of the schema it is a version of.

DO $zdm$
DECLARE
    zdm_grant record;
BEGIN
    FOR zdm_grant IN
        SELECT DISTINCT a.grantee
        FROM pg_catalog.pg_namespace AS n,
             pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) AS a
        WHERE n.nspname = {like} AND a.privilege_type = 'USAGE'
    LOOP
        EXECUTE pg_catalog.format(
            'GRANT USAGE ON SCHEMA %I TO %s', {schema}::text,
            CASE WHEN zdm_grant.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(zdm_grant.grantee)) END);
    END LOOP;
END
$zdm$
