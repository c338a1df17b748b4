-- One row for each relation asked for, everything about it as jsonb. Runs under the pinned settings, so that whatever
-- the server deparses comes qualified. Parameters: %(schemas)s and %(names)s, two text arrays of one length.
WITH RECURSIVE asked AS (
  SELECT c.*, n.nspname
  FROM ROWS FROM (unnest(%(schemas)s::text[]), unnest(%(names)s::text[])) AS w (schema_name, table_name)
  JOIN pg_namespace n ON n.nspname = w.schema_name
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.table_name
  WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
), family (root, oid) AS (  -- the table itself, its partitions, and what inherits from it
  SELECT asked.oid, asked.oid FROM asked WHERE asked.relkind IN ('r', 'p')
  UNION
  SELECT f.root, h.inhrelid FROM family f JOIN pg_inherits h ON h.inhparent = f.oid WHERE NOT h.inhdetachpending
)
SELECT
  t.nspname, t.relname, t.oid::int8,
  CASE WHEN t.relkind = 'v' THEN 'view'
       WHEN t.relkind = 'm' THEN 'materialized view'
       WHEN t.relkind = 'f' THEN 'foreign table'
       WHEN t.relkind = 'p' THEN 'partitioned table'
       WHEN t.relpersistence = 't' THEN 'temporary table'
       WHEN t.relispartition THEN 'partition'
       WHEN EXISTS (SELECT FROM pg_inherits i WHERE t.oid IN (i.inhrelid, i.inhparent)) THEN 'inheritance parent or child'
       ELSE 'table' END AS kind,
  pg_get_userbyid(t.relowner) AS owner,
  pg_has_role(t.relowner, 'USAGE') AS may_alter,
  CASE WHEN t.relkind NOT IN ('r', 'p') THEN t.reltuples::float8
       ELSE (SELECT CASE WHEN bool_and(l.reltuples >= 0) THEN sum(l.reltuples)::float8 ELSE -1 END
             FROM family f JOIN pg_class l ON l.oid = f.oid WHERE f.root = t.oid AND l.relkind = 'r') END AS rows,
  CASE WHEN t.relkind = 'm' THEN coalesce(pg_table_size(t.oid), 0)
       WHEN t.relkind IN ('r', 'p') THEN (SELECT coalesce(sum(pg_table_size(l.oid)), 0)::int8
             FROM family f JOIN pg_class l ON l.oid = f.oid WHERE f.root = t.oid AND l.relkind = 'r') ELSE 0 END AS bytes,
  t.relrowsecurity AS row_security,
  -- Whoever gets as much of every new table of ours by ALTER DEFAULT PRIVILEGES needs no mention.
  (SELECT coalesce(array_agg(DISTINCT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END), '{}')
   FROM (SELECT t.relacl UNION ALL SELECT a.attacl FROM pg_attribute a WHERE a.attrelid = t.oid AND NOT a.attisdropped) AS r (acl)
   CROSS JOIN LATERAL aclexplode(r.acl) AS g
   WHERE g.grantee <> t.relowner AND g.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') AND NOT EXISTS (
     SELECT FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) AS o
     WHERE d.defaclrole = current_user::regrole AND d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, t.relnamespace)
       AND o.grantee = g.grantee AND o.privilege_type = g.privilege_type)) AS granted,
  obj_description(t.oid, 'pg_class') AS comment,

  -- columns ------------------------------------------------------------------------------------------------------------
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', a.attname, 'number', a.attnum, 'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
      'default', pg_get_expr(d.adbin, d.adrelid),
      'identity', CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' ELSE '' END,
      'generated', CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' ELSE '' END,
      'collation', CASE WHEN a.attcollation <> y.typcollation
        THEN (SELECT format('%%I.%%I', cn.nspname, co.collname) FROM pg_collation co
              JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END,
      'type_oid', a.atttypid::int8, 'typmod', a.atttypmod, 'collation_oid', a.attcollation::int8,
      'comment', col_description(a.attrelid, a.attnum),
      'acl', coalesce(to_jsonb(a.attacl::text[]), '[]'),
      'storage', CASE WHEN a.attstorage <> y.typstorage THEN CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external'
        WHEN 'x' THEN 'extended' WHEN 'm' THEN 'main' ELSE '' END ELSE '' END,
      'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE '' END,
      'inherited', a.attinhcount > 0 AND NOT t.relispartition,
      'statistics', nullif(a.attstattarget, -1), 'options', coalesce(to_jsonb(a.attoptions), '[]'),
      'numbered_for', CASE WHEN a.attidentity = '' THEN '[]' ELSE (
        SELECT coalesce(jsonb_agg(CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END), '[]')
        FROM pg_depend s JOIN pg_class q ON q.oid = s.objid CROSS JOIN LATERAL aclexplode(q.relacl) AS g
        WHERE s.classid = 'pg_class'::regclass AND s.deptype = 'i' AND s.refclassid = 'pg_class'::regclass
          AND s.refobjid = t.oid AND s.refobjsubid = a.attnum AND g.privilege_type = 'USAGE') END) ORDER BY a.attnum), '[]')
   FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
   WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,

  -- constraints --------------------------------------------------------------------------------------------------------
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', c.conname,
      'kind', CASE c.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign key'
        WHEN 'c' THEN 'check' WHEN 'x' THEN 'exclusion' ELSE 'not null' END,
      'columns', (SELECT coalesce(jsonb_agg(name ORDER BY position), '[]') FROM (
         SELECT a.attname AS name, k.n AS position
         FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, n)
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
         UNION ALL  -- what an exclusion's expressions and predicate mention
         SELECT a.attname, 10000 + a.attnum FROM pg_depend p
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = p.refobjsubid AND a.attnum <> ALL (c.conkey)
         WHERE c.contype = 'x' AND p.classid = 'pg_class'::regclass AND p.objid = c.conindid
           AND p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid AND p.refobjsubid > 0
         GROUP BY a.attname, a.attnum) AS mentioned),
      'definition', pg_get_constraintdef(c.oid), 'validated', c.convalidated,
      'index', CASE WHEN c.contype IN ('p', 'u', 'x') THEN (SELECT x.relname FROM pg_class x WHERE x.oid = c.conindid) END,
      'references', (SELECT jsonb_build_object('schema_', n.nspname, 'name', r.relname) FROM pg_class r
        JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = c.confrelid AND c.contype = 'f'),
      'inherited', c.coninhcount > 0 AND NOT t.relispartition,
      'comment', obj_description(c.oid, 'pg_constraint')) ORDER BY c.contype = 'n', c.conname), '[]')
   FROM pg_constraint c WHERE c.conrelid = t.oid AND c.contype IN ('p', 'u', 'f', 'c', 'x', 'n')
     -- a foreign key to a partitioned table has one more row for each partition, which is nobody's to name
     AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.oid = c.conparentid AND k.conrelid = c.conrelid)) AS constraints,

  -- foreign keys of others (and its own) that point here: `columns` are those of this table, `references` is whose it is --
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', c.conname, 'kind', 'foreign key',
      'columns', (SELECT jsonb_agg(a.attname ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, n)
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum),
      'definition', pg_get_constraintdef(c.oid), 'validated', c.convalidated, 'index', NULL,
      'references', jsonb_build_object('schema_', n.nspname, 'name', r.relname),
      'comment', obj_description(c.oid, 'pg_constraint')) ORDER BY n.nspname, r.relname, c.conname), '[]')
   FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
   WHERE c.confrelid = t.oid AND c.contype = 'f' AND c.conparentid = 0) AS referenced_by,

  -- indexes ------------------------------------------------------------------------------------------------------------
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', x.relname,
      'columns', (SELECT coalesce(jsonb_agg(name ORDER BY position), '[]') FROM (
         SELECT a.attname AS name, min(p.position) AS position FROM (
           SELECT k.attnum::int, k.n AS position FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, n) WHERE k.attnum > 0
           UNION ALL
           SELECT p.refobjsubid, 10000 + p.refobjsubid FROM pg_depend p
           WHERE p.classid = 'pg_class'::regclass AND p.objid = x.oid
             AND p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid AND p.refobjsubid > 0) AS p (attnum, position)
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = p.attnum GROUP BY a.attname) AS mentioned),
      'definition', pg_get_indexdef(x.oid), 'unique', i.indisunique, 'primary', i.indisprimary,
      'valid', i.indisvalid AND i.indisready AND i.indislive,
      'key', CASE WHEN i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        THEN (SELECT CASE WHEN bool_and(o.opcdefault AND i.indcollation[k.n - 1] = a.attcollation) THEN jsonb_agg(a.attname ORDER BY k.n) END
              FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
              JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum JOIN pg_opclass o ON o.oid = i.indclass[k.n - 1]
              WHERE k.n <= i.indnkeyatts) END,
      'constraint', (SELECT min(c.conname::text) FROM pg_constraint c
        WHERE c.conindid = x.oid AND c.conrelid = t.oid AND c.contype IN ('p', 'u', 'x')),
      'method', m.amname, 'comment', obj_description(x.oid, 'pg_class'), 'clustered', i.indisclustered,
      'options', coalesce(to_jsonb(x.reloptions), '[]'),
      'tablespace', coalesce((SELECT s.spcname FROM pg_tablespace s WHERE s.oid = x.reltablespace), ''),
      'statistics', (SELECT coalesce(jsonb_agg(jsonb_build_array(a.attnum, a.attstattarget) ORDER BY a.attnum), '[]')
        FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0)) ORDER BY x.relname), '[]')
   FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
   WHERE i.indrelid = t.oid) AS indexes,

  -- triggers: the user's, not zdm's own --------------------------------------------------------------------------------
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', g.tgname, 'oid', g.oid::int8, 'definition', pg_get_triggerdef(g.oid),
      'timing', CASE WHEN g.tgtype & 64 > 0 THEN 'instead of' WHEN g.tgtype & 2 > 0 THEN 'before' ELSE 'after' END,
      'row', g.tgtype & 1 > 0,
      'columns', (SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND (a.attnum = ANY (g.tgattr) OR EXISTS (
          SELECT FROM pg_depend p WHERE p.classid = 'pg_trigger'::regclass AND p.objid = g.oid
            AND p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid AND p.refobjsubid = a.attnum)))
      ) ORDER BY g.tgname), '[]')
   FROM pg_trigger g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgname !~ '^[~!]zdm_') AS triggers,

  -- rules that rewrite statements on it, or on a partition or child of it ------------------------------------------------
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', format('%%I on %%I.%%I', r.rulename, n.nspname, c.relname),
      'event', CASE r.ev_type WHEN '2' THEN 'update' WHEN '3' THEN 'insert' ELSE 'delete' END,
      'instead', r.is_instead, 'silent', r.ev_enabled = 'O',
      -- in the stored tree NEW is the second relation; one of that number in a subquery is taken for it, too
      'new', (SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND concat(r.ev_qual, r.ev_action) ~ format('[{]VAR :varno 2 :varattno (0|%%s) ', a.attnum))) ORDER BY r.rulename), '[]')
   FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE r.ev_enabled <> 'D' AND r.ev_type <> '1' AND r.ev_class IN (SELECT f.oid FROM family f WHERE f.root = t.oid)) AS rules,

  -- whatever else hangs on it ------------------------------------------------------------------------------------------
  (SELECT coalesce(jsonb_agg(jsonb_build_object('kind', z.kind, 'name', z.name, 'oid', z.oid::int8, 'digest', coalesce(CASE
        WHEN z.kind IN ('view', 'materialized view') THEN md5(pg_get_viewdef(z.oid))
        WHEN z.kind = 'rule' THEN md5(pg_get_ruledef(z.oid))
        WHEN z.kind = 'policy' THEN (SELECT md5(concat_ws('/', o.polcmd::text, o.polpermissive::text, o.polroles::text,
          pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid))) FROM pg_policy o WHERE o.oid = z.oid)
        WHEN z.kind = 'function' THEN (SELECT md5(pg_get_functiondef(f.oid)) FROM pg_proc f WHERE f.oid = z.oid AND f.prosqlbody IS NOT NULL)
        WHEN z.kind = 'publication' THEN (SELECT md5(concat_ws('/', to_jsonb(r) ->> 'prattrs', to_jsonb(r) ->> 'prqual'))
          FROM pg_publication_rel r WHERE r.oid = z.oid) END, ''), 'columns', (
      SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
      WHERE a.attrelid = t.oid AND a.attnum = ANY (z.attnums) AND a.attnum > 0)) ORDER BY z.kind, z.name), '[]')
   FROM (
     SELECT found.kind, found.name, found.oid, array_agg(DISTINCT found.attnum) AS attnums FROM (
       -- views, materialized views and rules
       SELECT CASE WHEN r.rulename <> '_RETURN' AND v.relkind = 'v' THEN 'view rule'
                   WHEN v.oid = t.oid OR r.rulename <> '_RETURN' THEN 'rule' WHEN v.relkind = 'm' THEN 'materialized view'
                   ELSE 'view' END AS kind,
              CASE WHEN r.rulename = '_RETURN' THEN format('%%I.%%I', n.nspname, v.relname)
                   ELSE format('%%I on %%I.%%I', r.rulename, n.nspname, v.relname) END AS name, p.refobjsubid AS attnum,
              CASE WHEN r.rulename = '_RETURN' THEN v.oid ELSE r.oid END AS oid
       FROM pg_depend p JOIN pg_rewrite r ON p.classid = 'pg_rewrite'::regclass AND r.oid = p.objid
       JOIN pg_class v ON v.oid = r.ev_class JOIN pg_namespace n ON n.oid = v.relnamespace
       WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid AND NOT (v.oid = t.oid AND r.rulename = '_RETURN')
       UNION ALL
       SELECT 'policy', format('%%I on %%I.%%I', o.polname, n.nspname, v.relname), p.refobjsubid, o.oid
       FROM pg_depend p JOIN pg_policy o ON p.classid = 'pg_policy'::regclass AND o.oid = p.objid
       JOIN pg_class v ON v.oid = o.polrelid JOIN pg_namespace n ON n.oid = v.relnamespace
       WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid
       UNION ALL
       SELECT 'statistics', format('%%I.%%I', n.nspname, s.stxname), k.attnum, s.oid
       FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
       CROSS JOIN LATERAL (
         SELECT unnest(s.stxkeys)::int UNION ALL
         SELECT p.refobjsubid FROM pg_depend p WHERE p.classid = 'pg_statistic_ext'::regclass AND p.objid = s.oid
           AND p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid) AS k (attnum)
       WHERE s.stxrelid = t.oid
       UNION ALL
       SELECT 'generated column', a.attname::text, p.refobjsubid,
         (SELECT e.oid FROM pg_attrdef e WHERE e.adrelid = t.oid AND e.adnum = a.attnum)
       FROM pg_depend p
       LEFT JOIN pg_attrdef d ON p.classid = 'pg_attrdef'::regclass AND d.oid = p.objid
       JOIN pg_attribute a ON a.attrelid = t.oid AND a.attgenerated <> ''
         AND a.attnum = CASE WHEN p.classid = 'pg_class'::regclass AND p.objid = t.oid THEN p.objsubid
                             WHEN d.adrelid = t.oid THEN d.adnum END
       WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid AND p.refobjsubid > 0 AND p.refobjsubid <> a.attnum
         AND a.attnum > 0
       UNION ALL
       -- functions with an SQL-standard body, and those that take or return the row type
       SELECT 'function', p.objid::regprocedure::text, p.refobjsubid, p.objid
       FROM pg_depend p WHERE p.classid = 'pg_proc'::regclass
         AND (p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid
           OR p.refclassid = 'pg_type'::regclass AND p.refobjid IN (t.reltype, nullif((SELECT y.typarray FROM pg_type y WHERE y.oid = t.reltype), 0)))
       UNION ALL
       SELECT 'column of the row type', format('%%I.%%I.%%I', n.nspname, c.relname, a.attname), 0, c.oid
       FROM pg_depend p JOIN pg_class c ON p.classid = 'pg_class'::regclass AND c.oid = p.objid AND p.objsubid > 0
       JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.objsubid
       WHERE p.refclassid = 'pg_type'::regclass
         AND p.refobjid IN (t.reltype, nullif((SELECT y.typarray FROM pg_type y WHERE y.oid = t.reltype), 0))
       UNION ALL
       SELECT CASE p.deptype WHEN 'i' THEN 'identity sequence' ELSE 'sequence' END, format('%%I.%%I', n.nspname, c.relname), p.refobjsubid, c.oid
       FROM pg_depend p JOIN pg_class c ON p.classid = 'pg_class'::regclass AND c.oid = p.objid AND c.relkind = 'S'
       JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid AND p.deptype IN ('a', 'i')
       UNION ALL
       -- views that show columns which they do not group by, since they group by the primary key
       SELECT 'view that groups by the key', format('%%I.%%I', n.nspname, v.relname), k.attnum::int, v.oid
       FROM pg_constraint c JOIN pg_depend p ON p.refclassid = 'pg_constraint'::regclass AND p.refobjid = c.oid
       JOIN pg_rewrite r ON p.classid = 'pg_rewrite'::regclass AND r.oid = p.objid
       JOIN pg_class v ON v.oid = r.ev_class JOIN pg_namespace n ON n.oid = v.relnamespace
       CROSS JOIN LATERAL unnest(c.conkey) AS k (attnum)
       WHERE c.conrelid = t.oid AND c.contype = 'p'
       UNION ALL
       -- what takes numbers of an identity's sequence by its own right, and would be lost or stand in the way when that goes
       SELECT 'user of the identity sequence', pg_describe_object(u.classid, u.objid, u.objsubid), p.refobjsubid, u.objid
       FROM pg_depend p JOIN pg_class c ON p.classid = 'pg_class'::regclass AND c.oid = p.objid AND c.relkind = 'S'
       JOIN pg_depend u ON u.refclassid = 'pg_class'::regclass AND u.refobjid = c.oid AND u.deptype = 'n'
       WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid AND p.deptype = 'i'
       UNION ALL
       SELECT CASE i.inhparent WHEN t.oid THEN 'child' ELSE 'parent' END,
         (CASE i.inhparent WHEN t.oid THEN i.inhrelid ELSE i.inhparent END)::regclass::text, 0, NULL
       FROM pg_inherits i WHERE t.oid IN (i.inhrelid, i.inhparent) AND t.relkind = 'r' AND NOT t.relispartition
       UNION ALL
       SELECT 'publication', quote_ident(b.pubname), k.attnum::int, r.oid
       FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid
       CROSS JOIN LATERAL (  -- column lists and row filters came with 15
         SELECT 0 UNION ALL SELECT jsonb_array_elements_text(CASE jsonb_typeof(to_jsonb(r) -> 'prattrs')
           WHEN 'array' THEN to_jsonb(r) -> 'prattrs' ELSE '[]' END)::int
         UNION ALL SELECT p.refobjsubid FROM pg_depend p WHERE p.classid = 'pg_publication_rel'::regclass AND p.objid = r.oid
           AND p.refclassid = 'pg_class'::regclass AND p.refobjid = t.oid) AS k (attnum)
       WHERE r.prrelid = t.oid
       UNION ALL
       SELECT 'publication', quote_ident(b.pubname), 0, NULL FROM pg_publication b
       WHERE t.relkind IN ('r', 'p') AND t.relpersistence = 'p' AND b.puballtables
       UNION ALL
       -- FOR TABLES IN SCHEMA came with 15, and its catalog with it
       SELECT 'publication', quote_ident(b.pubname), 0, NULL FROM pg_depend s
       JOIN pg_depend d ON d.classid = s.classid AND d.objid = s.objid AND d.refclassid = 'pg_publication'::regclass
       JOIN pg_publication b ON b.oid = d.refobjid
       WHERE s.classid = to_regclass('pg_publication_namespace') AND s.refclassid = 'pg_namespace'::regclass
         AND s.refobjid = t.relnamespace AND t.relkind IN ('r', 'p') AND t.relpersistence = 'p'
       UNION ALL
       SELECT 'subscription', quote_ident(s.subname), 0, s.oid FROM pg_subscription_rel r
       JOIN pg_subscription s ON s.oid = r.srsubid WHERE r.srrelid = t.oid
       UNION ALL
       SELECT 'replica identity', CASE t.relreplident WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing'
           ELSE (SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                 WHERE i.indrelid = t.oid AND i.indisreplident) END, k.attnum,
         (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = t.oid AND i.indisreplident)
       FROM (SELECT 0 UNION ALL SELECT unnest(i.indkey)::int FROM pg_index i
             WHERE i.indrelid = t.oid AND i.indisreplident AND t.relreplident = 'i') AS k (attnum)
       WHERE t.relkind IN ('r', 'p') AND t.relreplident <> 'd'
     ) AS found
     WHERE found.name IS NOT NULL
     GROUP BY found.kind, found.name, found.oid
   ) AS z) AS dependents
FROM asked t
