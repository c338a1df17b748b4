-- template: refuse_unverified
-- version: 1
-- parameters: quote, schema, table, oid, partitions, wrong, called
-- Partitions that came after the latest verification must hold nothing that is not filled: what the swap drops would be lost.

DO {quote}
DECLARE
  zdm_seen pg_catalog.pg_snapshot;
  zdm_partition pg_catalog.record;
  zdm_wrong boolean;
BEGIN
  SELECT v.snapshot::pg_catalog.pg_snapshot INTO zdm_seen
  FROM zdm.verifications AS v JOIN zdm.rollout_tables AS r ON r.rollout = v.rollout AND r.active AND r.table_oid = {oid}
  WHERE v.schema_name = {schema} AND v.table_name = {table} AND v.snapshot <> ''
  ORDER BY v.started_at DESC LIMIT 1;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  FOR zdm_partition IN
{partitions}
  LOOP
    EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM ONLY %I.%I WHERE %s)', zdm_partition.nspname,
      zdm_partition.relname, {wrong}) INTO zdm_wrong;
    IF zdm_wrong THEN
      RAISE EXCEPTION USING ERRCODE = '55000',
        MESSAGE = pg_catalog.format('%I.%I became %s after that was verified, and has rows that are not filled',
          zdm_partition.nspname, zdm_partition.relname, {called}),
        HINT = 'Run zdm verify --repair for this migration, then advance again.';
    END IF;
  END LOOP;
END
{quote}
