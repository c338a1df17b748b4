-- template: function_marker
-- version: 1
-- parameters: function, quote, marker
-- The marker is nobody's but zdm's. A statement that writes it (a copy of a whole row, EXCLUDED, DEFAULT) is as if it had
-- not; only the repair, which sets bit 30, may: it has settled the row itself.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql AS {quote}
BEGIN
  IF NEW.{marker} OPERATOR(pg_catalog.>=) 1073741824 THEN
    NEW.{marker} := (NEW.{marker} OPERATOR(pg_catalog.&) 1073741822)
      OPERATOR(pg_catalog.|) (1 OPERATOR(pg_catalog.-) (COALESCE(OLD.{marker}, 0) OPERATOR(pg_catalog.&) 1));
  ELSE
    NEW.{marker} := OLD.{marker};
  END IF;
  RETURN NEW;
END
{quote}
