-- template: children_remember
-- version: 1
-- parameters: quote, oid, fresh, required, memory
-- Before the old columns go: which children have every column by themselves as well (made with LIKE), and what the others say of
-- NOT NULL by themselves of a column that they have so. See children_own and children_required.

DO {quote}
BEGIN
  PERFORM pg_catalog.set_config({memory}, (
    WITH RECURSIVE below (relid, parent, level) AS (
      SELECT h.inhrelid, h.inhparent, 1 FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = {oid}::pg_catalog.oid
      UNION
      SELECT h.inhrelid, h.inhparent, b.level + 1 FROM below AS b JOIN pg_catalog.pg_inherits AS h ON h.inhparent = b.relid
    ),
    own (relid, parent, level) AS (
      SELECT b.relid, b.parent, b.level FROM below AS b
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = b.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount > 0
      GROUP BY b.relid, b.parent, b.level
      HAVING pg_catalog.bool_or(a.attislocal)
        AND pg_catalog.bool_and(a.attislocal OR a.attname = ANY ({fresh}::pg_catalog.text[]))
    )
    SELECT pg_catalog.jsonb_build_object(
      'own', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('child', o.relid::pg_catalog.regclass,
          'parent', o.parent::pg_catalog.regclass) ORDER BY o.level, o.relid) FROM own AS o),
      'required', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('child', b.relid::pg_catalog.regclass, 'name', k.conname,
          'column', r.final) ORDER BY b.level, b.relid, r.final)
        FROM below AS b JOIN pg_catalog.pg_constraint AS k ON k.conrelid = b.relid AND k.contype = 'n' AND k.conislocal
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = b.relid AND a.attnum = k.conkey[1] AND a.attislocal
        JOIN pg_catalog.jsonb_to_recordset({required}::pg_catalog.jsonb) AS r (old text, final text) ON r.old = a.attname
        WHERE b.relid NOT IN (SELECT o.relid FROM own AS o)))
    )::pg_catalog.text, true);
END
{quote}
