-- template: log_keyed
-- version: 3
-- parameters: also, bring, changes, declare, failure, filter, forget, function, lock, path, quote, read, settings
-- Brings both sides of one key to agree: under a lock on the key among reconcilers, then on the rows, so that what they hold and what was noted of
-- them (`zdm_ids`) is read together. What is noted while it works (a row that was not there could not be locked) is found at the end, and it begins
-- again. Returns done, failed (recorded), taken by another reconciler, busy (the application holds a row), or in the way: another row still has a
-- value that this one takes, which is recorded, and tried again. Without anything noted, `zdm_side` says whose row counts; without that either there
-- is nothing to do.

CREATE OR REPLACE FUNCTION {function}(zdm_key pg_catalog.text[], zdm_side pg_catalog.text)
RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_ids pg_catalog.int8[];
{declare}
BEGIN
  -- Only transactions of zdm's own come here. The backfill says in them that its rows need not be looked at; but what is noted of one does, and
  -- the row that refers to it. A SET clause would want a superuser, since no module has defined the setting.
  PERFORM pg_catalog.set_config('zdm.row', '', true){also};
  IF NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({lock} OPERATOR(pg_catalog.||) zdm_key::pg_catalog.text, 0)) THEN
    RETURN 'taken';
  END IF;
  FOR zdm_try IN 1..3 LOOP
    BEGIN
{read}
      IF pg_catalog.cardinality(zdm_ids) OPERATOR(pg_catalog.=) 0 AND zdm_side IS NULL THEN
        RETURN 'done';
      END IF;
{bring}
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
      WHEN insufficient_resources OR operator_intervention OR system_error OR syntax_error_or_access_rule_violation THEN
        RAISE;
      WHEN OTHERS THEN
{failure}
        IF SQLSTATE OPERATOR(pg_catalog.=) ANY (ARRAY['23505', '23P01'])
          AND pg_catalog.current_setting('zdm.patient', true) OPERATOR(pg_catalog.=) 'on' THEN
          RETURN 'in the way';
        END IF;
        -- What was noted since may be what mends it.
        UPDATE {changes} AS zdm_c SET failed = true WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key
          AND (zdm_ids IS NULL OR zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids));
        RETURN 'failed';
    END;
  END LOOP;
  RETURN 'busy';
END
{quote}
