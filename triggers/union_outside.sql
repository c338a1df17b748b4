-- template: union_outside
-- version: 1
-- parameters: function, quote, message, row
-- A row of the new version that is no old table's has no old form.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS {quote}
BEGIN
  RAISE check_violation USING MESSAGE = pg_catalog.format({message}, ROW({row})::pg_catalog.text),
    HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
END
{quote}
