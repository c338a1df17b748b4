-- template: function_settle
-- version: 1
-- parameters: function, settings, quote, declare, marker, groups, enter, decide, derive, leave
-- Rules 1 to 11, UPDATE. Decides for each group in which direction to derive, derives, settles the row.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql{settings} AS {quote}
DECLARE
  zdm_was constant integer := COALESCE(OLD.{marker}, 0);
  -- Groups of which the statement named a side; see function_named. Noted by the triggers before this one, only where it matters.
  zdm_named constant integer := CASE
    WHEN (NEW.{marker} OPERATOR(pg_catalog.&) 1073741824) OPERATOR(pg_catalog.<>) 0
    THEN NEW.{marker} OPERATOR(pg_catalog.&) {groups} ELSE 0 END;
  zdm_bits integer := 0;
  zdm_failed boolean := false;
  zdm_agree boolean;
{declare}
BEGIN
{enter}
{decide}
{derive}
  NEW.{marker} := ((1 OPERATOR(pg_catalog.-) (zdm_was OPERATOR(pg_catalog.&) 1)) OPERATOR(pg_catalog.|) zdm_bits)
    OPERATOR(pg_catalog.|) CASE WHEN zdm_failed THEN 2 ELSE 0 END;
{leave}
  RETURN NEW;
END
{quote}
