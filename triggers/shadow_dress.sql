-- template: shadow_dress
-- version: 2
-- parameters: quote, old, new
-- Gives a table that is to follow another one what that one is besides its columns: owner, grants, row security with its
-- policies, comment, storage parameters, persistence, place, and the numbers of its identity columns. Partitions get their share.

DO {quote}
DECLARE
  old constant pg_catalog.regclass := {old};
  new constant pg_catalog.regclass := {new};
  facts pg_catalog.record;
  item pg_catalog.record;
  part pg_catalog.record;
BEGIN
  SELECT c.relowner, pg_catalog.pg_get_userbyid(c.relowner) AS owner, c.relacl, c.relrowsecurity, c.relforcerowsecurity, c.relpersistence,
    c.relreplident, pg_catalog.array_to_string(c.reloptions, ', ') AS options,
    (SELECT pg_catalog.string_agg('toast.' || o, ', ') FROM pg_catalog.pg_class AS t CROSS JOIN pg_catalog.unnest(t.reloptions) AS o
      WHERE t.oid = c.reltoastrelid) AS toast_options,
    (SELECT s.spcname FROM pg_catalog.pg_tablespace AS s WHERE s.oid = c.reltablespace) AS place,
    pg_catalog.obj_description(c.oid, 'pg_class') AS comment
  INTO facts FROM pg_catalog.pg_class AS c WHERE c.oid = old;
  -- The numbers of both tables' rows come from one sequence. Whoever may insert there may take them.
  FOR item IN
    SELECT a.attname, s.objid::pg_catalog.regclass AS sequence FROM pg_catalog.pg_attribute AS a
    JOIN pg_catalog.pg_depend AS s ON s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.deptype = 'i'
      AND s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum
    JOIN pg_catalog.pg_attribute AS b ON b.attrelid = new AND b.attname = a.attname AND NOT b.attisdropped
    WHERE a.attrelid = old AND a.attidentity <> ''
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT pg_catalog.nextval(%L::pg_catalog.regclass)', new, item.attname,
      item.sequence);
    FOR part IN
      SELECT DISTINCT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(g.grantee)) END AS role
      FROM (SELECT facts.relacl AS acl UNION ALL SELECT a.attacl FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = old) AS l
      CROSS JOIN LATERAL pg_catalog.aclexplode(l.acl) AS g
      WHERE g.privilege_type = 'INSERT' AND g.grantee <> facts.relowner
    LOOP
      EXECUTE pg_catalog.format('GRANT USAGE ON SEQUENCE %s TO %s', item.sequence, part.role);
    END LOOP;
  END LOOP;
  -- Whoever shall own a table must be allowed to make one there; only a superuser may give it away otherwise.
  EXECUTE pg_catalog.format('GRANT USAGE, CREATE ON SCHEMA %s TO %I',
    (SELECT c.relnamespace::pg_catalog.regnamespace FROM pg_catalog.pg_class AS c WHERE c.oid = new), facts.owner);
  FOR part IN
    SELECT c.oid::pg_catalog.regclass AS name, c.relkind FROM pg_catalog.pg_class AS c
    WHERE c.oid = new OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(new) AS p)
    ORDER BY c.oid
  LOOP
    IF part.relkind = 'r' THEN
      IF facts.options IS NOT NULL OR facts.toast_options IS NOT NULL THEN
        EXECUTE pg_catalog.format('ALTER TABLE %s SET (%s)', part.name, pg_catalog.concat_ws(', ', facts.options, facts.toast_options));
      END IF;
      IF facts.relpersistence = 'u' THEN
        EXECUTE pg_catalog.format('ALTER TABLE %s SET UNLOGGED', part.name);
      END IF;
    END IF;
    IF facts.relreplident IN ('f', 'n') THEN
      EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY %s', part.name, CASE facts.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END);
    END IF;
    EXECUTE pg_catalog.format('ALTER TABLE %s OWNER TO %I', part.name, facts.owner);
  END LOOP;
  IF facts.comment IS NOT NULL THEN
    EXECUTE pg_catalog.format('COMMENT ON TABLE %s IS %L', new, facts.comment);
  END IF;
  FOR item IN
    SELECT g.privilege_type AS privilege, g.is_grantable,
      CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(g.grantee)) END AS role
    FROM pg_catalog.aclexplode(facts.relacl) AS g WHERE g.grantee <> facts.relowner
  LOOP
    EXECUTE pg_catalog.format('GRANT %s ON %s TO %s%s', item.privilege, new, item.role,
      CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
  END LOOP;
  FOR item IN
    SELECT p.polname, p.polpermissive, p.polcmd, pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS reads,
      pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS writes, pg_catalog.obj_description(p.oid, 'pg_policy') AS comment,
      (SELECT pg_catalog.string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(r)) END, ', ')
        FROM pg_catalog.unnest(p.polroles) AS r) AS roles
    FROM pg_catalog.pg_policy AS p WHERE p.polrelid = old ORDER BY p.polname
  LOOP
    EXECUTE pg_catalog.format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', item.polname, new,
      CASE WHEN item.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
      CASE item.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
      item.roles)
      || CASE WHEN item.reads IS NULL THEN '' ELSE ' USING (' || item.reads || ')' END
      || CASE WHEN item.writes IS NULL THEN '' ELSE ' WITH CHECK (' || item.writes || ')' END;
    IF item.comment IS NOT NULL THEN
      EXECUTE pg_catalog.format('COMMENT ON POLICY %I ON %s IS %L', item.polname, new, item.comment);
    END IF;
  END LOOP;
  IF facts.relrowsecurity THEN
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', new);
  END IF;
  IF facts.relforcerowsecurity THEN
    EXECUTE pg_catalog.format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', new);
  END IF;
  -- What would keep the old table from being dropped is found now, and not in the last second.
  SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) AS what INTO item FROM pg_catalog.pg_depend AS d
  JOIN pg_catalog.pg_policy AS p ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND p.oid = d.objid AND p.polrelid = new
  WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = old LIMIT 1;
  IF FOUND THEN
    RAISE dependent_objects_still_exist USING MESSAGE = pg_catalog.format('%s reads %s itself', item.what, old),
      HINT = 'Let the policy read the table through a function.';
  END IF;
END
{quote}
