-- template: element_gather
-- version: 3
-- parameters: function, arguments, quote, one, many, guard, all, own_key, match, agree, touch, assign, join, whole, fail, forget, ended
-- Makes a row of the new version say what the old version's rows say at this moment, together; false if that raised, and is recorded.
-- The row is locked first, so that all who write rows of one key come one after the other. One that agrees already is only touched:
-- another transaction whose snapshot does not see these rows must not write by what it sees.

CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {one};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_mine constant pg_catalog.text := {guard};
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) zdm_mine OR (zdm_guard OPERATOR(pg_catalog.=) {all} AND zdm_how OPERATOR(pg_catalog.<>) ALL ('{{fill,repair}}')) THEN
    RETURN true;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    -- Their foreign key refuses them, as it does where only this snapshot does not see the row; who works without it is told to try again.
    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed'
      AND pg_catalog.current_setting('session_replication_role') OPERATOR(pg_catalog.=) 'replica'
      AND EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) THEN
      RAISE serialization_failure USING MESSAGE = 'could not serialize access: the row they belong to is not seen';
    END IF;
{ended}
    RETURN true;
  END IF;
  BEGIN
    IF {agree} THEN
      {touch};
    ELSE
      PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
      UPDATE {one} AS zdm_s SET {assign} FROM ({join}) AS zdm_j WHERE {own_key};
      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
{whole}
    END IF;
  EXCEPTION
    WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
      OR system_error THEN RAISE;
    WHEN OTHERS THEN
{fail}
      RETURN false;
  END;
{forget}
  RETURN true;
END
{quote}
