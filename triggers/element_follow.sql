-- template: element_follow
-- version: 3
-- parameters: function, path, settings, quote, one, guard, empty, settle, keys, changed, own_key, agree, append, message, hint
-- A row of the new version was written that follows from rows of the old one. A new row gets what they say; anything else that the new
-- application says of it has no old form, and is refused.

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
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' AND {empty} THEN
    PERFORM {settle}({keys}, 'insert');
    RETURN NULL;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
    IF NOT {changed} THEN
      PERFORM {settle}({keys}, 'follow');
      RETURN NULL;
    END IF;
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
