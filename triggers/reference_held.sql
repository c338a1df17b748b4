-- template: reference_held
-- version: 1
-- parameters: function, quote, source, parent, declare, wanted, compute, none, is_named
-- Whether a row refers to the parent that the old version's values say, which is locked; nothing is made. A parent that is renamed
-- at this moment is waited for.

CREATE OR REPLACE FUNCTION {function}(zdm_row {source}) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
{declare}
BEGIN
  IF NOT {wanted} THEN
    RETURN {none};
  END IF;
{compute}
  PERFORM FROM {parent} AS zdm_p WHERE {is_named} FOR KEY SHARE;
  RETURN FOUND;
END
{quote}
