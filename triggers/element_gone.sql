-- template: element_gone
-- version: 1
-- parameters: function, quote, number, mirrored
-- Before a statement that takes elements away: what a later one of this transaction finds missing may never have been there, or be gone.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql AS {quote}
BEGIN
  IF NOT pg_catalog.starts_with(COALESCE(pg_catalog.current_setting('zdm.row', true), ''), {mirrored}) THEN
    PERFORM pg_catalog.set_config('zdm.gone', {number}, true);
  END IF;
  RETURN NULL;
END
{quote}
