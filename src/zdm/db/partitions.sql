-- One row for each descendant of the tables in %(roots)s, partitions or what inherits from them, with what it has of its own on
-- its columns, and its own triggers, as jsonb. Runs under the pinned settings, so that whatever the server deparses comes qualified.
WITH RECURSIVE tree (root, relid) AS (
  SELECT h.inhparent, h.inhrelid FROM pg_inherits h WHERE h.inhparent = ANY (%(roots)s::oid[]) AND NOT h.inhdetachpending
  UNION
  SELECT t.root, h.inhrelid FROM tree t JOIN pg_inherits h ON h.inhparent = t.relid WHERE NOT h.inhdetachpending
)
SELECT t.root::int8, n.nspname, c.relname, c.oid::int8,
  CASE c.relkind WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
    ELSE CASE WHEN c.relispartition THEN 'partition' ELSE 'child table' END END AS kind,
  pg_get_userbyid(c.relowner) AS owner,
  pg_has_role(c.relowner, 'USAGE') AS may_alter,
  (SELECT coalesce(jsonb_agg(jsonb_build_object('kind', own.kind, 'name', own.name, 'columns', (
      SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum = ANY (own.attnums) AND a.attnum > 0)) ORDER BY own.kind, own.name), '[]')
   FROM (
     SELECT found.kind, found.name, array_agg(DISTINCT found.attnum::int) AS attnums FROM (
       SELECT 'index' AS kind, x.relname::text AS name, k.attnum
       FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
       CROSS JOIN LATERAL (
         SELECT unnest(i.indkey)::int UNION ALL
         SELECT p.refobjsubid FROM pg_depend p WHERE p.classid = 'pg_class'::regclass AND p.objid = x.oid
           AND p.refclassid = 'pg_class'::regclass AND p.refobjid = c.oid) AS k (attnum)
       WHERE i.indrelid = c.oid AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.oid)
         AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid AND k.conrelid = c.oid)
       UNION ALL
       SELECT 'index setting', x.relname, k.attnum
       FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_inherits h ON h.inhrelid = x.oid
       JOIN pg_class y ON y.oid = h.inhparent CROSS JOIN LATERAL unnest(i.indkey) AS k (attnum)
       WHERE i.indrelid = c.oid AND (obj_description(x.oid, 'pg_class') IS NOT NULL OR x.reltablespace <> y.reltablespace
         OR x.reloptions IS DISTINCT FROM y.reloptions
         OR EXISTS (SELECT FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = y.oid AND b.attnum = a.attnum
                    WHERE a.attrelid = x.oid AND a.attstattarget IS DISTINCT FROM b.attstattarget))
       UNION ALL
       SELECT CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign key'
              WHEN 'c' THEN 'check' ELSE 'exclusion' END, k.conname, u.attnum
       FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey) AS u (attnum)
       WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f', 'c', 'x') AND k.coninhcount = 0 AND k.conparentid = 0
       UNION ALL
       SELECT 'foreign key of ' || k.conrelid::regclass, k.conname, u.attnum
       FROM pg_constraint k CROSS JOIN LATERAL unnest(k.confkey) AS u (attnum)
       WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0
       UNION ALL
       SELECT CASE WHEN a.acl THEN 'column grant' WHEN a.comment THEN 'comment' WHEN a.default THEN 'default'
              WHEN a.required THEN 'NOT NULL' ELSE 'setting' END,
              a.attname, a.attnum
       FROM (
         SELECT m.attname, m.attnum, m.attacl IS NOT NULL AS acl, col_description(c.oid, m.attnum) IS NOT NULL AS comment,
           pg_get_expr(d.adbin, d.adrelid) IS DISTINCT FROM pg_get_expr(e.adbin, e.adrelid) AS default,
           m.attnotnull AND NOT o.attnotnull AS required,
           (m.attstorage, m.attcompression, m.attstattarget, m.attoptions)
             IS DISTINCT FROM (o.attstorage, o.attcompression, o.attstattarget, o.attoptions) AS setting
         FROM pg_attribute m JOIN pg_attribute o ON o.attrelid = t.root AND o.attname = m.attname
         LEFT JOIN pg_attrdef d ON d.adrelid = m.attrelid AND d.adnum = m.attnum
         LEFT JOIN pg_attrdef e ON e.adrelid = o.attrelid AND e.adnum = o.attnum
         WHERE m.attrelid = c.oid AND m.attnum > 0 AND NOT m.attisdropped) AS a
       WHERE a.acl OR a.comment OR a.default OR a.required OR a.setting
       UNION ALL
       SELECT CASE p.classid WHEN 'pg_rewrite'::regclass THEN 'view or rule' WHEN 'pg_policy'::regclass THEN 'policy'
              WHEN 'pg_statistic_ext'::regclass THEN 'statistics' WHEN 'pg_proc'::regclass THEN 'function'
              ELSE 'publication' END, pg_describe_object(p.classid, p.objid, 0), p.refobjsubid
       FROM pg_depend p
       WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = c.oid AND p.refobjsubid > 0
         AND p.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_statistic_ext'::regclass, 'pg_proc'::regclass,
           'pg_publication_rel'::regclass)
       UNION ALL
       SELECT 'replica identity', x.relname, u.attnum
       FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid CROSS JOIN LATERAL unnest(i.indkey) AS u (attnum)
       WHERE i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'
     ) AS found
     GROUP BY found.kind, found.name
   ) AS own) AS own,
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', g.tgname, 'definition', pg_get_triggerdef(g.oid),
      'timing', CASE WHEN g.tgtype & 64 > 0 THEN 'instead of' WHEN g.tgtype & 2 > 0 THEN 'before' ELSE 'after' END,
      'row', g.tgtype & 1 > 0,
      'columns', (SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND (a.attnum = ANY (g.tgattr) OR EXISTS (
          SELECT FROM pg_depend p WHERE p.classid = 'pg_trigger'::regclass AND p.objid = g.oid
            AND p.refclassid = 'pg_class'::regclass AND p.refobjid = c.oid AND p.refobjsubid = a.attnum)))
      ) ORDER BY g.tgname), '[]')
   FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgparentid = 0
     AND g.tgname !~ '^[~!]zdm_') AS triggers,
  (SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
  (SELECT coalesce(jsonb_agg(jsonb_build_object('schema_', s.nspname, 'name', p.relname) ORDER BY h.inhseqno), '[]')
   FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace s ON s.oid = p.relnamespace
   WHERE h.inhrelid = c.oid) AS parents
FROM tree t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY c.oid
