-- template: function_insert
-- version: 1
-- parameters: function, settings, quote, declare, marker, enter, decide, derive, leave
-- Rules: INSERT. Decides for each group which side the row came with, derives the other one, settles the row.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql{settings} AS {quote}
DECLARE
  -- The new version's view carries -1 as the marker's default: only an INSERT through it has that value.
  zdm_view constant boolean := COALESCE(NEW.{marker} OPERATOR(pg_catalog.=) -1, false);
  -- A row that is copied or restored together with its marker may say that its new side could not be derived.
  zdm_was constant integer := CASE WHEN NEW.{marker} OPERATOR(pg_catalog.>) 0 THEN NEW.{marker} ELSE 0 END;
  zdm_bits integer := 0;
  zdm_failed boolean := false;
  zdm_agree boolean;
{declare}
BEGIN
{enter}
{decide}
{derive}
  NEW.{marker} := (1 OPERATOR(pg_catalog.|) zdm_bits) OPERATOR(pg_catalog.|) CASE WHEN zdm_failed THEN 2 ELSE 0 END;
{leave}
  RETURN NEW;
END
{quote}
