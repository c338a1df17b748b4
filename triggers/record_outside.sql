-- template: record_outside
-- version: 1
-- parameters: function, settings, quote, records, before, nobodys, number, rollout, schema, table, key, message, row
-- A row of the new version that is no old table's has no old form, and is recorded as long as it is there and is none of them. No row of the old
-- version could meet it.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
BEGIN
  IF TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN
    DELETE {before};
  END IF;
  IF TG_OP OPERATOR(pg_catalog.<>) 'DELETE' THEN
    IF {nobodys} THEN
      INSERT INTO {records} AS zdm_f (rollout, mapping, schema_name, table_name, key, new_row, sqlstate, reason)
      VALUES ({rollout}, {number}, {schema}, {table}, {key}, pg_catalog.to_jsonb(NEW), '23514', pg_catalog.format({message}, ROW({row})::pg_catalog.text))
      ON CONFLICT (rollout, mapping, key) DO UPDATE SET new_row = EXCLUDED.new_row, reason = EXCLUDED.reason, at = DEFAULT;
    END IF;
  END IF;
  RETURN NULL;
END
{quote}
