-- template: swap_identity_before
-- version: 1
-- parameters: quote, table, column, memory, aside
-- An identity sequence cannot move to another column: it goes with the old one, and the successor gets one that goes on where
-- it ended. Here its name is freed, which also keeps everybody from taking a number, and what it is is remembered until
-- swap_identity_after, in a setting of this transaction.

DO {quote}
DECLARE
  old constant pg_catalog.regclass := (
    SELECT d.objid FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'i'
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = {table}::pg_catalog.regclass
      AND a.attname = {column});
  facts pg_catalog.jsonb;
  state pg_catalog.jsonb;
BEGIN
  SELECT pg_catalog.jsonb_build_object(
      'name', pg_catalog.format('%I.%I', n.nspname, c.relname),
      'generated', CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END,
      'start', s.seqstart, 'increment', s.seqincrement, 'cache', s.seqcache, 'cycle', s.seqcycle,
      -- A limit that is the type's own follows the type.
      'min', CASE WHEN s.seqmin <> CASE WHEN s.seqincrement > 0 THEN 1 ELSE l.least END THEN s.seqmin END,
      'max', CASE WHEN s.seqmax <> CASE WHEN s.seqincrement > 0 THEN l.greatest ELSE -1 END THEN s.seqmax END,
      'comment', pg_catalog.obj_description(c.oid, 'pg_class'),
      'grants', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('privilege', g.privilege_type, 'option', g.is_grantable,
          'role', CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(g.grantee)) END))
        FROM pg_catalog.aclexplode(c.relacl) AS g WHERE g.grantee <> c.relowner))
  INTO facts
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = c.oid
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = {table}::pg_catalog.regclass AND a.attname = {column}
  CROSS JOIN LATERAL (
    SELECT CASE s.seqtypid WHEN 'smallint'::pg_catalog.regtype THEN -32768 WHEN 'integer'::pg_catalog.regtype
             THEN -2147483648 ELSE -9223372036854775808 END AS least,
           CASE s.seqtypid WHEN 'smallint'::pg_catalog.regtype THEN 32767 WHEN 'integer'::pg_catalog.regtype
             THEN 2147483647 ELSE 9223372036854775807 END AS greatest) AS l
  WHERE c.oid = old;
  EXECUTE pg_catalog.format('ALTER SEQUENCE %s RENAME TO %I', old, {aside});
  EXECUTE pg_catalog.format(
    'SELECT pg_catalog.jsonb_build_object(''value'', last_value, ''called'', is_called) FROM %s', old) INTO state;
  PERFORM pg_catalog.set_config({memory}, (facts OPERATOR(pg_catalog.||) state)::pg_catalog.text, true);
END
{quote}
