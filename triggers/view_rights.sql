-- template: view_rights
-- version: 1
-- parameters: quote, old, new
-- A view that was made anew gets the rights on the old one, as they are when this runs: what the defaults of the schema have
-- given it goes first, then each right is granted, on the view and on its columns.

DO {quote}
DECLARE
  item pg_catalog.record;
  before constant pg_catalog.oid := {old}::pg_catalog.regclass;
  anew constant pg_catalog.oid := {new}::pg_catalog.regclass;
BEGIN
  IF (SELECT b.relacl IS NOT DISTINCT FROM a.relacl FROM pg_catalog.pg_class AS b, pg_catalog.pg_class AS a
      WHERE b.oid = before AND a.oid = anew) AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_attribute WHERE attrelid = before AND attacl IS NOT NULL) THEN
    RETURN;
  END IF;
  FOR item IN
    SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(a.grantee)) END AS grantee
    FROM pg_catalog.pg_class AS c,
      pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) AS a
    WHERE c.oid = anew
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', {new}::pg_catalog.text, item.grantee);
  END LOOP;
  FOR item IN
    SELECT a.privilege_type AS granted, a.grantee, a.is_grantable
    FROM pg_catalog.pg_class AS c,
      pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) AS a
    WHERE c.oid = before
    UNION ALL
    SELECT pg_catalog.format('%s (%I)', a.privilege_type, t.attname), a.grantee, a.is_grantable
    FROM pg_catalog.pg_attribute AS t, pg_catalog.aclexplode(t.attacl) AS a
    WHERE t.attrelid = before AND t.attnum > 0 AND NOT t.attisdropped
  LOOP
    EXECUTE pg_catalog.format('GRANT %s ON %s TO %s%s', item.granted, {new}::pg_catalog.text,
      CASE WHEN item.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(item.grantee)) END,
      CASE WHEN item.is_grantable AND item.grantee <> 0 THEN ' WITH GRANT OPTION' ELSE '' END);
  END LOOP;
END
{quote}
