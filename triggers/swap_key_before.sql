-- template: swap_key_before
-- version: 1
-- parameters: quote, key, memory
-- The primary key of a partitioned table goes with the old column, and each partition's part of it. What the parts are called,
-- and what hangs on them, is remembered until swap_key_after, in a setting of this transaction.

DO {quote}
BEGIN
  PERFORM pg_catalog.set_config({memory}, pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('oid', i.indrelid::bigint,
    'name', k.conname, 'comment', pg_catalog.obj_description(k.oid, 'pg_constraint'),
    'identity', i.indisreplident, 'clustered', i.indisclustered))::pg_catalog.text, true)
  FROM pg_catalog.pg_partition_tree({key}::pg_catalog.regclass) AS p
  JOIN pg_catalog.pg_index AS i ON i.indexrelid = p.relid
  JOIN pg_catalog.pg_constraint AS k ON k.conindid = i.indexrelid AND k.contype = 'p' AND k.conrelid = i.indrelid;
END
{quote}
