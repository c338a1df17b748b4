-- template: link_record
-- version: 1
-- parameters: function, quote, source, parent, link, counted, guard, all, source_of, links_of, failure, hold, own, key, forget_own, forget, joined, agree, reference, recorded, records, of, link_key, recording, several, touch
-- Makes the values of a row of the source hold what one of its links says at this moment, and records the others: those beyond the one,
-- and such as have no form in the row. The row is locked first, outside the subtransactions that try. The link whose parent the row
-- holds stays; where there is none that can be held, those on record are tried in turn, and without any the row is emptied.

CREATE OR REPLACE FUNCTION {function}(zdm_at {link}, zdm_how pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {source};
  zdm_link {link};
  zdm_own constant pg_catalog.jsonb := {own};
  zdm_kept pg_catalog.jsonb;
  zdm_fits pg_catalog.bool := true;
  zdm_noted pg_catalog.bool := false;
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_mine constant pg_catalog.text := {guard};
  zdm_asked constant pg_catalog.text := CASE zdm_how WHEN 'repair' THEN 'follow' ELSE zdm_how END;
  zdm_state pg_catalog.text;
  zdm_reason pg_catalog.text;
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) (zdm_mine OPERATOR(pg_catalog.||) '!')
    OR (zdm_guard OPERATOR(pg_catalog.=) {all} AND zdm_how OPERATOR(pg_catalog.<>) 'repair') THEN
    RETURN true;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {source} AS zdm_s WHERE {source_of} FOR NO KEY UPDATE;
  -- A link of no row has no place in the new version either; what the old version has just written is never recorded.
  IF NOT FOUND OR zdm_guard OPERATOR(pg_catalog.=) zdm_mine THEN
    RETURN {hold}(zdm_at, zdm_how);
  ELSIF zdm_how OPERATOR(pg_catalog.=) 'late' THEN
    RETURN EXISTS (SELECT {forget_own}) OR {hold}(zdm_at, zdm_how);
  ELSIF zdm_how OPERATOR(pg_catalog.=) 'repair' AND EXISTS (SELECT {failure}) THEN
    RETURN true;
  END IF;
  DELETE {forget_own};
  zdm_noted := FOUND;
  IF (SELECT pg_catalog.count(*) FROM {counted} AS zdm_l WHERE {links_of}) OPERATOR(pg_catalog.>) 1 THEN
    BEGIN
      SELECT {key} INTO zdm_kept FROM {counted} AS zdm_l JOIN {parent} AS zdm_p ON {joined} WHERE {links_of} AND {agree} ORDER BY {reference} LIMIT 1;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
        OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
      WHEN OTHERS THEN NULL;
    END;
    IF zdm_kept IS NULL THEN
      SELECT {key} INTO zdm_kept FROM {counted} AS zdm_l WHERE {links_of} ORDER BY {reference} LIMIT 1;
    END IF;
    {recording}, '21000', {several} FROM {counted} AS zdm_l WHERE {links_of} AND {key} OPERATOR(pg_catalog.<>) zdm_kept;
    zdm_noted := true;
  END IF;
  BEGIN
    PERFORM {hold}(zdm_at, zdm_asked);
  EXCEPTION
    WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
      OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
    WHEN OTHERS THEN
      zdm_fits := false;
      zdm_state := SQLSTATE;
      zdm_reason := SQLERRM;
  END;
  IF NOT zdm_fits THEN
    {recording}, zdm_state, zdm_reason FROM {counted} AS zdm_l WHERE {links_of};
    zdm_noted := true;
  END IF;
  IF NOT EXISTS (SELECT FROM {counted} AS zdm_l WHERE {links_of}) THEN
    FOR zdm_link IN SELECT zdm_l.* FROM {link} AS zdm_l WHERE {links_of} AND {recorded} ORDER BY {reference} LOOP
      BEGIN
        DELETE {forget};
        PERFORM {hold}(zdm_link, 'follow');
        zdm_fits := true;
        zdm_noted := true;
        EXIT;
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
          OR system_error OR syntax_error_or_access_rule_violation THEN RAISE;
        WHEN OTHERS THEN
          zdm_state := SQLSTATE;
          zdm_reason := SQLERRM;
          UPDATE {records} AS zdm_f SET sqlstate = zdm_state, reason = zdm_reason WHERE {of} AND zdm_f.key OPERATOR(pg_catalog.=) {link_key};
      END;
    END LOOP;
    IF NOT zdm_fits THEN
      PERFORM {hold}(zdm_at, 'follow');
    END IF;
  END IF;
  IF zdm_noted THEN
    {touch};
  END IF;
  RETURN true;
END
{quote}
