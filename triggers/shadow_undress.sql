-- template: shadow_undress
-- version: 1
-- parameters: quote, old, kept
-- Takes back what shadow_dress granted on the sequences of the old table's identity columns, which nobody needs any more. Who could
-- use one before the rollout still can: `kept` is an object with a list of roles for each column.

DO {quote}
DECLARE
  item pg_catalog.record;
BEGIN
  FOR item IN
    SELECT s.objid::pg_catalog.regclass AS sequence, a.attname::pg_catalog.text,
      CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(g.grantee)) END AS role
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_depend AS s ON s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.deptype = 'i'
      AND s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.refobjid = c.oid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = s.refobjsubid
    JOIN pg_catalog.pg_class AS q ON q.oid = s.objid AND q.relkind = 'S'
    CROSS JOIN LATERAL pg_catalog.aclexplode(q.relacl) AS g
    WHERE c.oid = pg_catalog.to_regclass({old}) AND g.grantee <> c.relowner AND g.privilege_type = 'USAGE'
  LOOP
    CONTINUE WHEN COALESCE({kept}::pg_catalog.jsonb OPERATOR(pg_catalog.->) item.attname OPERATOR(pg_catalog.?) item.role, false);
    EXECUTE pg_catalog.format('REVOKE USAGE ON SEQUENCE %s FROM %s', item.sequence, item.role);
  END LOOP;
END
{quote}
