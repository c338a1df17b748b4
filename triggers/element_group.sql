-- template: element_group
-- version: 1
-- parameters: function, arguments, quote, one, many, guard, keyless, own_key, named, columns, values, arbiter, match, agree, touch, assign, join, hidden, fail, forget
-- Makes the new version's row of a key say what the old version's rows of it say at this moment, together; without any it goes. False if
-- that raised, and is recorded. The row is the lock of its key: where there is none it is made, which waits for whoever else is making or
-- removing it, and above READ COMMITTED raises a serialization error for one that the snapshot does not see. So it is made before it is
-- known whether it stays, and what it says is looked at once more under the lock. One that agrees is touched, for older snapshots.

CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {one};
  zdm_there pg_catalog.bool;
  zdm_made pg_catalog.bool := false;
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_mine constant pg_catalog.text := {guard};
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) zdm_mine OR {keyless} THEN
    RETURN true;
  END IF;
  BEGIN
    FOR zdm_try IN 1 .. 100 LOOP
      SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
      zdm_there := FOUND;
      EXIT WHEN zdm_there;
      -- This transaction has removed it already: whoever makes it waits, so there is nothing to meet.
      IF pg_catalog.current_setting('zdm.ended', true) IS NOT DISTINCT FROM zdm_mine
        AND NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) THEN
        RETURN true;
      END IF;
{named}
      PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
      INSERT INTO {one} ({columns}) SELECT {values} FROM ({join}) AS zdm_j ON CONFLICT ({arbiter}) DO NOTHING;
      zdm_made := FOUND;
      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
    END LOOP;
    IF NOT zdm_there THEN
      RAISE no_data_found USING MESSAGE = {hidden};
    END IF;
    IF NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) THEN
      PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
      DELETE FROM {one} AS zdm_s WHERE {own_key};
      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
      PERFORM pg_catalog.set_config('zdm.ended', zdm_mine, true);
    ELSIF NOT {agree} THEN
      PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
      UPDATE {one} AS zdm_s SET {assign} FROM ({join}) AS zdm_j WHERE {own_key};
      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
    ELSIF NOT zdm_made THEN
      {touch};
    END IF;
  EXCEPTION
    WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
      OR system_error THEN RAISE;
    WHEN OTHERS THEN
      -- What no rows would say need not be said.
      IF EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) THEN
{fail}
        RETURN false;
      END IF;
  END;
{forget}
  RETURN true;
END
{quote}
