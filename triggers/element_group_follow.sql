-- template: element_group_follow
-- version: 2
-- parameters: function, path, settings, quote, one, many, guard, empty, match, settle, keys, own_key, agree, append, message, hint
-- The new version has written a row that follows from rows of the old one. A new row without values gets what they say; anything else has
-- no old form, and is refused. A changed key is looked at when the transaction ends, since both tables may be following a third one.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_row {one};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_mine constant pg_catalog.text := {guard};
BEGIN
  IF pg_catalog.current_setting('zdm.row', true) IS NOT DISTINCT FROM zdm_mine THEN
    RETURN NULL;
  END IF;
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' AND {empty} AND EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) THEN
    PERFORM {settle}({keys}, 'insert');
    RETURN NULL;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key};
  IF FOUND AND NOT {agree} THEN
{append}
    RAISE check_violation USING MESSAGE = pg_catalog.format({message}, zdm_mine),
      HINT = {hint};
  END IF;
  RETURN NULL;
END
{quote}
