-- template: record_settle
-- version: 3
-- parameters: function, quote, source, target, declare, own_key, match, compute, lazy, agree, first, mine, all, there, taken, meet, write, go, record, forget, note
-- Makes the old side hold what this side's row says at this moment, or records that it cannot. What it has there until then goes, lest
-- the old version should go on writing it. The old side's row is locked before: who takes it away, or makes one, is waited for, so
-- that what is recorded is so at the commit. One that is not seen is asked for after that, so that of two that come at the same moment at least
-- one meets the other. What the old side itself has written is never recorded: it raises, as without a record.

CREATE OR REPLACE FUNCTION {function}(zdm_at {source}, zdm_lazy pg_catalog.bool, zdm_first pg_catalog.bool)
RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {source};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_next pg_catalog.text := {there};
  zdm_mirrored constant pg_catalog.bool := zdm_guard OPERATOR(pg_catalog.<>) '' AND zdm_guard OPERATOR(pg_catalog.=) {mine};
  zdm_wanted pg_catalog.bool := false;
  zdm_was pg_catalog.jsonb;
  zdm_state pg_catalog.text;
  zdm_reason pg_catalog.text;
  zdm_found pg_catalog.bool;
{declare}
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.<>) '' AND (zdm_guard OPERATOR(pg_catalog.=) ({mine} OPERATOR(pg_catalog.||) '!') OR zdm_guard OPERATOR(pg_catalog.=) {all}) THEN
    RETURN true;
  ELSIF zdm_mirrored THEN
    zdm_next := zdm_next OPERATOR(pg_catalog.||) '!';
  END IF;
  -- A snapshot sees the row that somebody else has removed since, and beside it the one that took over its key; the lock tells.
  IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
    PERFORM FROM {source} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {source} AS zdm_s WHERE {own_key};
  IF FOUND THEN
    BEGIN
{compute}
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
        OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
      WHEN OTHERS THEN
        IF zdm_mirrored THEN
          RAISE;
        END IF;
        zdm_state := SQLSTATE;
        zdm_reason := SQLERRM;
    END;
  END IF;
  IF zdm_wanted THEN
{lazy}
{agree}
{first}
    SELECT CASE WHEN {taken} THEN pg_catalog.to_jsonb(zdm_t) END INTO zdm_was FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
    zdm_found := FOUND;
    IF zdm_state IS NULL THEN
      BEGIN
        PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
{write}
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
          OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
        WHEN OTHERS THEN
          IF zdm_mirrored THEN
            RAISE;
          END IF;
          zdm_state := SQLSTATE;
          zdm_reason := SQLERRM;
      END;
    END IF;
    IF zdm_state IS NULL THEN
{forget}
    ELSE
      PERFORM pg_catalog.set_config('zdm.row', zdm_next OPERATOR(pg_catalog.||) '!', true);
{go}
{record}
{meet}
    END IF;
  ELSE
    PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
{go}
{note}
{forget}
  END IF;
  PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
  RETURN true;
END
{quote}
