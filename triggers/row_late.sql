-- template: row_late
-- version: 3
-- parameters: function, path, settings, quote, settle, source, match, there
-- At the end of the transaction: a row that must have one on the other side, and was given none meanwhile, gets it. So the new
-- application can insert both itself, in one transaction, as it will when it is alone.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_at {source};
BEGIN
  SELECT zdm_s.* INTO zdm_at FROM {source} AS zdm_s WHERE {match};
  IF FOUND THEN
{there}
    PERFORM {settle}(zdm_at, false, false);
  END IF;
  RETURN NULL;
END
{quote}
