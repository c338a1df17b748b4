-- template: element_lock
-- version: 1
-- parameters: function, path, settings, quote, one, guard, own_key
-- Before an element is written its row is locked, as everybody locks the row first.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
BEGIN
  IF pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM {guard} THEN
    PERFORM FROM {one} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  END IF;
  RETURN NEW;
END
{quote}
