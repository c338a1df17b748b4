-- template: reference_take
-- version: 1
-- parameters: function, quote, source, parent, declare, wanted, compute, find
-- The parent of a row by the old version's values, found or made, and locked against its end; NULL if it has none.

CREATE OR REPLACE FUNCTION {function}(zdm_row {source}) RETURNS {parent} LANGUAGE plpgsql AS {quote}
DECLARE
{declare}
BEGIN
  IF NOT {wanted} THEN
    RETURN NULL;
  END IF;
{compute}
  RETURN {find};
END
{quote}
