-- template: union_claims
-- version: 1
-- parameters: function, arguments, quote, source, own_key, handover, target, assign, met, settle
-- Whether one old table has a row of a key that the rows of several old tables share; if so, and that is asked, the row of the new one becomes
-- its. Other tables' functions know it by its name only, so that it may speak of its table as that is called at the moment.

CREATE OR REPLACE FUNCTION {function}({arguments}, zdm_take pg_catalog.bool) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_at {source};
BEGIN
  IF NOT zdm_take THEN
    RETURN EXISTS (SELECT FROM {source} AS zdm_s WHERE {own_key});
  END IF;
  SELECT zdm_s.* INTO zdm_at FROM {source} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM pg_catalog.set_config('zdm.row', {handover}, true);
  UPDATE {target} AS zdm_t SET {assign} WHERE {met};
  PERFORM pg_catalog.set_config('zdm.row', '', true);
  PERFORM {settle}(zdm_at, false, false);
  RETURN true;
END
{quote}
