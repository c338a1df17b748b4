-- template: function_named
-- version: 1
-- parameters: function, quote, marker
-- Notes in the marker, until the row is settled, that the statement named a side of the group whose bit is the argument: the new
-- one, or, where the new one wrote last and neither changed, the old one.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql AS {quote}
BEGIN
  NEW.{marker} := CASE
    WHEN (NEW.{marker} OPERATOR(pg_catalog.&) 1073741824) OPERATOR(pg_catalog.<>) 0 THEN NEW.{marker}
    ELSE (COALESCE(OLD.{marker}, 0) OPERATOR(pg_catalog.&) 1) OPERATOR(pg_catalog.|) 1073741824
  END OPERATOR(pg_catalog.|) CAST(TG_ARGV[0] AS integer);
  RETURN NEW;
END
{quote}
