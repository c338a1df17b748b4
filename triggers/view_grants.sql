-- template: view_grants
-- version: 1
-- parameters: quote, view, table, columns
-- Owner and rights of a version view are the table's, as they are when this runs. A column that is new has those rights that
-- a role holds on every column it is made from, on the view and on the table (a security_invoker view asks for both).
-- A security_invoker view lets only those read who may read every column of it; so where rights are granted by column, and no
-- row policies need the reader's name, the view runs with its owner's rights and its own column grants decide.

DO {quote}
DECLARE
  item pg_catalog.record;
  source constant pg_catalog.oid := {table}::pg_catalog.regclass;
BEGIN
  BEGIN
    EXECUTE (
      SELECT pg_catalog.format('ALTER VIEW %s OWNER TO %I', {view}::pg_catalog.text, pg_catalog.pg_get_userbyid(c.relowner))
      FROM pg_catalog.pg_class AS c WHERE c.oid = source
    );
  EXCEPTION WHEN insufficient_privilege THEN
    NULL;
  END;
  IF EXISTS (
    SELECT FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_attribute AS t ON t.attrelid = c.oid AND NOT t.attisdropped
    CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) AS a
    WHERE c.oid = source AND NOT c.relrowsecurity AND a.privilege_type = 'SELECT'
  ) THEN
    EXECUTE pg_catalog.format('ALTER VIEW %s RESET (security_invoker)', {view}::pg_catalog.text);
  END IF;
  FOR item IN
    SELECT a.privilege_type || ' ON ' || {view} AS granted,
      CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(a.grantee)) END AS grantee,
      a.is_grantable
    FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a
    WHERE c.oid = source AND a.grantee <> c.relowner
    UNION ALL
    SELECT pg_catalog.format('%s (%I) ON %s', a.privilege_type, target.name, target.relation),
      CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(a.grantee)) END,
      pg_catalog.bool_and(a.is_grantable)
    FROM pg_catalog.jsonb_to_recordset({columns}) AS v (name pg_catalog.text, physical pg_catalog.text, sources pg_catalog.text[])
    CROSS JOIN LATERAL (
      SELECT v.name, {view} AS relation
      UNION ALL
      SELECT v.physical, source::pg_catalog.regclass::pg_catalog.text WHERE v.sources <> ARRAY[v.physical]
    ) AS target
    JOIN pg_catalog.pg_attribute AS t ON t.attrelid = source AND t.attname = ANY (v.sources) AND NOT t.attisdropped
    CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) AS a
    GROUP BY target.name, target.relation, a.privilege_type, a.grantee, v.sources
    HAVING pg_catalog.count(DISTINCT t.attname) = pg_catalog.cardinality(v.sources)
  LOOP
    EXECUTE pg_catalog.format('GRANT %s TO %s%s', item.granted, item.grantee,
      CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
  END LOOP;
END
{quote}
