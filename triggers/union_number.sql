-- template: union_number
-- version: 1
-- parameters: function, quote, assign
-- The old tables number their rows each for itself, and until cleanup the new version goes on where each of them is.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS {quote}
BEGIN
{assign}
  RETURN NEW;
END
{quote}
