-- template: element_settle_one
-- version: 2
-- parameters: function, arguments, quote, one, many, guard, all, own_key, match, agree, touch, failure, assign, join, whole, settle_many, names, one_text, orphan, no_form, referring
-- Makes a row say what its elements say at this moment, together. The row is locked first, so that all who write elements of it come one
-- after the other. One that agrees already is not written again, but is touched: another transaction whose snapshot does not see these
-- elements must not write by what it sees. Elements that have no form in the row are refused, or a rollback would lose them.

CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {one};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_mine constant pg_catalog.text := {guard};
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) zdm_mine OR (zdm_guard OPERATOR(pg_catalog.=) {all} AND zdm_how OPERATOR(pg_catalog.<>) 'repair') THEN
    RETURN true;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    IF EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) THEN
      -- A foreign key refuses it, whether the row is not there or only not seen; without one it may be there when it is tried again.
      IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' AND NOT EXISTS ({referring}) THEN
        RAISE serialization_failure USING MESSAGE = 'could not serialize access: the row it belongs to is not seen';
      END IF;
      RAISE foreign_key_violation USING MESSAGE = pg_catalog.format({orphan}, zdm_mine),
        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
    END IF;
    RETURN true;
  END IF;
  IF {agree} THEN
    {touch};
  ELSE
    IF EXISTS (SELECT {failure}) THEN
      IF zdm_how OPERATOR(pg_catalog.=) 'repair' THEN
        RETURN true;
      END IF;
      RAISE object_not_in_prerequisite_state USING
        MESSAGE = pg_catalog.format({one_text}, zdm_mine, {names}),
        HINT = 'zdm.sync_failures says why. Correct it there first; it would be overwritten.';
    END IF;
    PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
    UPDATE {one} AS zdm_s SET {assign} FROM ({join}) AS zdm_j WHERE {own_key};
    PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
    IF zdm_how OPERATOR(pg_catalog.=) 'again' THEN
      RETURN true;
    END IF;
    SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key};
    IF NOT {agree} THEN
      PERFORM {settle_many}(zdm_row, zdm_row, 'again');
      RETURN true;
    END IF;
  END IF;
  IF zdm_how OPERATOR(pg_catalog.<>) ALL ('{{again,repair}}') AND NOT {whole} THEN
    RAISE check_violation USING
      MESSAGE = pg_catalog.format({no_form}, zdm_mine),
      HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
  END IF;
  RETURN true;
END
{quote}
