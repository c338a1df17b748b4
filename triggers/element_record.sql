-- template: element_record
-- version: 1
-- parameters: function, arguments, quote, one, many, guard, all, own_key, match, failure, hold, keys, forget_written, forget, records, of, recording, element, recorded, order
-- Makes a row say what its elements say at this moment, together, and records those that it cannot hold. The row is locked first, outside
-- the subtransactions that try, so that all who write elements of it, or what is recorded of them, come one after the other. What was
-- written is tried with those that the row holds already, then these without it; where they cannot be held either, since one statement
-- has written several, or took some away, each is tried in turn. What is recorded is tried again when an element that was in the list was
-- changed, or went, but not when another one was added, or was recorded as well (`alone`).

CREATE OR REPLACE FUNCTION {function}({arguments}, zdm_written pg_catalog.jsonb DEFAULT NULL) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {one};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_mine constant pg_catalog.text := {guard};
  zdm_asked constant pg_catalog.text := CASE WHEN zdm_how OPERATOR(pg_catalog.=) ANY ('{{repair,alone}}') THEN 'follow' ELSE zdm_how END;
  zdm_fits pg_catalog.bool := true;
  zdm_alone pg_catalog.jsonb[];
  zdm_key pg_catalog.jsonb;
  zdm_state pg_catalog.text;
  zdm_reason pg_catalog.text;
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) zdm_mine OR (zdm_guard OPERATOR(pg_catalog.=) {all} AND zdm_how OPERATOR(pg_catalog.<>) 'repair') THEN
    RETURN true;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  -- Elements of no row have no place in the new version either; what the old one has just written is never recorded.
  IF NOT FOUND OR zdm_how OPERATOR(pg_catalog.=) 'again' THEN
    RETURN {hold}({keys}, zdm_how);
  ELSIF zdm_how OPERATOR(pg_catalog.=) 'repair' AND EXISTS (SELECT {failure}) THEN
    RETURN true;
  END IF;
  BEGIN
    DELETE {forget_written};
    PERFORM {hold}({keys}, zdm_asked);
  EXCEPTION
    WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
      OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
    WHEN OTHERS THEN
      zdm_fits := false;
      zdm_state := SQLSTATE;
      zdm_reason := SQLERRM;
  END;
  IF NOT zdm_fits AND zdm_written IS NOT NULL THEN
    BEGIN
      {recording} FROM {many} AS zdm_m WHERE {match} AND {element} OPERATOR(pg_catalog.=) zdm_written
        ON CONFLICT (rollout, mapping, key) DO UPDATE SET new_row = EXCLUDED.new_row, sqlstate = EXCLUDED.sqlstate, reason = EXCLUDED.reason,
          at = DEFAULT;
      PERFORM {hold}({keys}, zdm_asked);
      zdm_fits := true;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
        OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
      WHEN OTHERS THEN NULL;
    END;
  END IF;
  IF zdm_fits AND zdm_how OPERATOR(pg_catalog.=) ANY ('{{insert,alone}}') THEN
    RETURN true;
  ELSIF NOT zdm_fits THEN
    SELECT pg_catalog.array_agg({element}) INTO zdm_alone FROM {many} AS zdm_m WHERE {match} AND {recorded};
    {recording} FROM {many} AS zdm_m WHERE {match} ON CONFLICT (rollout, mapping, key) DO NOTHING;
  END IF;
  FOR zdm_key IN SELECT {element} FROM {many} AS zdm_m WHERE {match} AND {recorded} AND NOT (zdm_fits AND {element} IS NOT DISTINCT FROM zdm_written)
    ORDER BY {element} OPERATOR(pg_catalog.=) ANY (zdm_alone), {order} LOOP
    BEGIN
      DELETE {forget};
      PERFORM {hold}({keys}, zdm_asked);
      zdm_fits := true;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
        OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
      WHEN OTHERS THEN
        zdm_state := SQLSTATE;
        zdm_reason := SQLERRM;
        UPDATE {records} AS zdm_f SET sqlstate = zdm_state, reason = zdm_reason WHERE {of} AND zdm_f.key OPERATOR(pg_catalog.=) zdm_key;
    END;
  END LOOP;
  IF NOT zdm_fits THEN
    -- Not one of them. That there are none is no row without a form, so that it is refused if it cannot be said either.
    PERFORM {hold}({keys}, zdm_asked);
  END IF;
  RETURN true;
END
{quote}
