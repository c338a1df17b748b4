-- template: swap_key_after
-- version: 1
-- parameters: quote, table, stands_in, memory, called
-- The server makes no primary key of a partitioned table from an index whose parts are attached, and lets go of none of them. So
-- each partition has a second unique index, which stands by itself: that becomes its primary key, and the table's own, for which
-- nothing is built, takes them all. The index that stood in for the key until now goes, and foreign keys that point at it are
-- added again NOT VALID, for which nothing is read; they are proved afterwards. The columns have their final names; see
-- swap_key_before.

DO {quote}
DECLARE
  facts constant pg_catalog.jsonb := pg_catalog.current_setting({memory})::pg_catalog.jsonb;
  root constant pg_catalog.regclass := {table}::pg_catalog.regclass;
  stands_in constant pg_catalog.regclass := {stands_in}::pg_catalog.regclass;
  body text;
  again text[] := '{{}}';
  one pg_catalog.record;
  each pg_catalog.record;
BEGIN
  SELECT pg_catalog.format('PRIMARY KEY (%s)', c.keys) || COALESCE(' INCLUDE (' || c.others || ')', '')
    || COALESCE(' WITH (' || o.options || ')', '')
    || COALESCE(' USING INDEX TABLESPACE ' || pg_catalog.quote_ident(s.spcname), '')
  INTO body
  FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
  LEFT JOIN pg_catalog.pg_tablespace AS s ON s.oid = x.reltablespace
  CROSS JOIN LATERAL (
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY u.n) FILTER (WHERE u.n <= i.indnkeyatts) AS keys,
      pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY u.n) FILTER (WHERE u.n > i.indnkeyatts) AS others
    FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS u (attnum, n)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = u.attnum) AS c
  CROSS JOIN LATERAL (
    SELECT pg_catalog.string_agg(pg_catalog.format('%I = %L', pg_catalog.split_part(w, '=', 1),
      pg_catalog.substr(w, pg_catalog.strpos(w, '=') + 1)), ', ') AS options
    FROM pg_catalog.unnest(x.reloptions) AS w) AS o
  WHERE i.indexrelid = stands_in;
  FOR one IN
    SELECT k.conrelid, k.conrelid::pg_catalog.regclass AS pointing, k.conname,
      pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(k.oid), ' NOT VALID$', '') AS definition,
      pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment,
      -- Before PostgreSQL 18 a partitioned table's foreign key cannot be NOT VALID, but its partitions' own can.
      c.relkind = 'p' AND pg_catalog.current_setting('server_version_num')::integer < 180000 AS apart
    FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
    WHERE k.conindid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(stands_in) AS p) AND k.contype = 'f' AND k.conparentid = 0
    ORDER BY k.oid
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', one.pointing, one.conname);
    again := again || ARRAY(
      SELECT pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID', t.relid, one.conname, one.definition) FROM (
        SELECT p.relid FROM pg_catalog.pg_partition_tree(one.conrelid) AS p WHERE one.apart AND p.isleaf
        UNION ALL SELECT one.pointing WHERE NOT one.apart) AS t);
    IF one.comment IS NOT NULL AND NOT one.apart THEN
      again := again || pg_catalog.format('COMMENT ON CONSTRAINT %I ON %s IS %L', one.conname, one.pointing, one.comment);
    END IF;
  END LOOP;
  EXECUTE pg_catalog.format('DROP INDEX %s', stands_in);
  FOR one IN
    SELECT p.relid, p.isleaf, f.name, f.comment, f.identity, f.clustered,
      (SELECT pg_catalog.quote_ident(x.relname) FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
       WHERE i.indrelid = p.relid AND i.indisunique AND i.indisvalid AND NOT x.relispartition
         AND pg_catalog.starts_with(x.relname, '_zdm_' || p.relid::pg_catalog.oid || '_')) AS part
    FROM pg_catalog.pg_partition_tree(root) AS p
    LEFT JOIN pg_catalog.jsonb_to_recordset(facts) AS f (oid bigint, name text, comment text, identity boolean, clustered boolean)
      ON f.oid = p.relid::pg_catalog.oid::bigint
    ORDER BY p.level DESC, p.relid
  LOOP
    IF NOT one.isleaf THEN
      EXECUTE pg_catalog.format('ALTER TABLE ONLY %s ADD CONSTRAINT %I %s', one.relid, one.name, body);
      FOR each IN
        SELECT k.conindid::pg_catalog.regclass AS index FROM pg_catalog.pg_inherits AS h
        JOIN pg_catalog.pg_constraint AS k ON k.conrelid = h.inhrelid AND k.contype = 'p'
        WHERE h.inhparent = one.relid AND NOT h.inhdetachpending
      LOOP
        EXECUTE pg_catalog.format('ALTER INDEX %s ATTACH PARTITION %s', (
          SELECT k.conindid::pg_catalog.regclass FROM pg_catalog.pg_constraint AS k
          WHERE k.conrelid = one.relid AND k.contype = 'p'), each.index);
      END LOOP;
    ELSIF one.part IS NOT NULL THEN
      EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I PRIMARY KEY USING INDEX %s', one.relid, one.name, one.part);
    ELSE
      RAISE EXCEPTION USING ERRCODE = '55000',
        MESSAGE = pg_catalog.format('%s became a partition of %s while its primary key was exchanged', one.relid, {called}),
        HINT = 'Advance again: the index of its key is built first.';
    END IF;
    IF one.comment IS NOT NULL THEN
      EXECUTE pg_catalog.format('COMMENT ON CONSTRAINT %I ON %s IS %L', one.name, one.relid, one.comment);
    END IF;
    IF one.identity THEN
      EXECUTE pg_catalog.format('ALTER TABLE ONLY %s REPLICA IDENTITY USING INDEX %I', one.relid, one.name);
    END IF;
    IF one.clustered THEN
      EXECUTE pg_catalog.format('ALTER TABLE %s CLUSTER ON %I', one.relid, one.name);
    END IF;
  END LOOP;
  FOR number IN 1..pg_catalog.cardinality(again) LOOP
    EXECUTE again[number];
  END LOOP;
END
{quote}
