-- template: union_late
-- version: 2
-- parameters: function, path, settings, quote, settle, source, own_key, failed, target, met, touch
-- At the end of the transaction: a row whose key another one had is tried again, since that may have gone meanwhile. If it is still
-- there, it is written as it is: whoever lets it go from now on waits until this transaction has ended, and then sees the row.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_at {source};
BEGIN
  IF EXISTS (SELECT {failed}) THEN
    SELECT zdm_s.* INTO zdm_at FROM {source} AS zdm_s WHERE {own_key};
    IF FOUND THEN
      UPDATE {target} AS zdm_t SET {touch} WHERE {met};
      PERFORM {settle}(zdm_at, false, false);
    END IF;
  END IF;
  RETURN NULL;
END
{quote}
