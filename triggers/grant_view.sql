-- template: grant_view
-- version: 1
-- parameters: table, view, shown, names
-- Gives a version view the table's grants, and its columns those of the columns they show. Writing through a view that shows
-- the marker needs the right to insert it, so whoever may insert single columns gets that as well.

DO $zdm$
DECLARE
    zdm_grant record;
BEGIN
    FOR zdm_grant IN
        SELECT a.privilege_type AS privilege, NULL::text AS col, a.grantee, a.is_grantable
        FROM pg_catalog.pg_class AS c,
             pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) AS a
        WHERE c.oid = {table}::pg_catalog.regclass
        UNION ALL
        SELECT a.privilege_type, s.name, a.grantee, a.is_grantable
        FROM pg_catalog.unnest({shown}::text[], {names}::text[]) AS s (physical, name)
        JOIN pg_catalog.pg_attribute AS t ON t.attrelid = {table}::pg_catalog.regclass AND t.attname = s.physical,
             pg_catalog.aclexplode(t.attacl) AS a
    LOOP
        CONTINUE WHEN zdm_grant.privilege NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE');
        EXECUTE pg_catalog.format(
            'GRANT %s%s ON %s TO %s%s', zdm_grant.privilege,
            CASE WHEN zdm_grant.col IS NULL THEN '' ELSE pg_catalog.format(' (%I)', zdm_grant.col) END,
            {view}::pg_catalog.regclass,
            CASE WHEN zdm_grant.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(zdm_grant.grantee)) END,
            CASE WHEN zdm_grant.is_grantable AND zdm_grant.grantee <> 0 THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$zdm$
