-- template: log_gather
-- version: 1
-- parameters: function, settings, quote, one, lock, one_key, named, changes, filter, needed, settle, failure, forget
-- Makes a row say what the many rows of its key say, where anything is noted of it, or it is asked for: under a lock on the key among
-- reconcilers, then on the row. The many are not locked: what is written to them meanwhile is noted, is found at the end or later, and it begins
-- again. Returns as `log_reconcile` does.

CREATE OR REPLACE FUNCTION {function}(zdm_key pg_catalog.text[], zdm_side pg_catalog.text)
RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_row {one};
  zdm_has pg_catalog.bool;
  zdm_ids pg_catalog.int8[];
BEGIN
  IF NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({lock} OPERATOR(pg_catalog.||) zdm_key::pg_catalog.text, 0)) THEN
    RETURN 'taken';
  END IF;
  FOR zdm_try IN 1..3 LOOP
    BEGIN
      SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {one_key} FOR NO KEY UPDATE;
      zdm_has := FOUND;
      IF NOT zdm_has THEN
{named}
      END IF;
      SELECT COALESCE(pg_catalog.array_agg(zdm_c.id), '{{}}') INTO zdm_ids
      FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key;
      IF pg_catalog.cardinality(zdm_ids) OPERATOR(pg_catalog.=) 0 AND zdm_side IS NULL THEN
        RETURN 'done';
      END IF;
      IF {needed} AND NOT {settle} THEN
        IF EXISTS (SELECT {failure} AND zdm_f.sqlstate OPERATOR(pg_catalog.=) ANY (ARRAY['23505', '23P01']))
          AND pg_catalog.current_setting('zdm.patient', true) OPERATOR(pg_catalog.=) 'on' THEN
          RETURN 'in the way';
        END IF;
        -- It is the many rows' matter, whoever wrote: nothing of the new version's is lost with it.
        UPDATE {changes} AS zdm_c SET failed = true, side = 'old' WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids);
        RETURN 'failed';
      END IF;
      IF (SELECT pg_catalog.count(*) FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key)
        OPERATOR(pg_catalog.<>) pg_catalog.cardinality(zdm_ids) THEN
        RAISE SQLSTATE 'ZDM01';
      END IF;
      DELETE FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids);
{forget}
      RETURN 'done';
    EXCEPTION
      WHEN SQLSTATE 'ZDM01' THEN
        NULL;
      WHEN lock_not_available OR transaction_rollback THEN
        RETURN 'busy';
    END;
  END LOOP;
  RETURN 'busy';
END
{quote}
