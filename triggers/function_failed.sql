-- template: function_failed
-- version: 1
-- parameters: function, quote, declare, rollout, table_oid, marker, old_key, new_key, groups
-- Rule 8. Records the groups of a row that could not be derived, and forgets them once the row is settled or gone. The
-- application's role need have no rights in schema zdm, hence SECURITY DEFINER. The expressions are the migration's own, which
-- the same owner runs in the backfill.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = '1'
  SET bytea_output = 'hex' SET lc_monetary = 'C' SET lc_numeric = 'C' SET lc_time = 'C'
  SET standard_conforming_strings = 'on'
AS {quote}
DECLARE
  zdm_key jsonb;
  zdm_found boolean := false;
  zdm_state text;
  zdm_message text;
{declare}
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM zdm.sync_failures WHERE rollout = {rollout} AND table_oid = {table_oid};
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    DELETE FROM zdm.sync_failures WHERE rollout = {rollout} AND table_oid = {table_oid} AND key = {old_key};
  END IF;
  IF TG_OP = 'DELETE' THEN
    RETURN NULL;
  END IF;
  IF (NEW.{marker} & 2) = 0 THEN
    RETURN NULL;
  END IF;
  zdm_key := {new_key};
{groups}
  IF NOT zdm_found THEN
    -- It was raised under the application's own settings and is not under these.
    INSERT INTO zdm.sync_failures (rollout, table_oid, key, group_name, sqlstate, message)
    VALUES ({rollout}, {table_oid}, zdm_key, '', 'P0001', 'raised when the row was written, but not when this was recorded')
    ON CONFLICT (rollout, table_oid, key, group_name)
    DO UPDATE SET sqlstate = EXCLUDED.sqlstate, message = EXCLUDED.message, at = DEFAULT;
  END IF;
  RETURN NULL;
END
{quote}
