-- template: trigger_marker
-- version: 1
-- parameters: trigger, table, function, marker
-- A statement that names the marker itself; not for the backfill, which settles a row that nobody has.

CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE OF {marker} ON {table} FOR EACH ROW
WHEN (
  (OLD.{marker} IS NOT NULL OR NEW.{marker} IS NOT NULL)
  AND (OLD.{marker} OPERATOR(pg_catalog.=) NEW.{marker}) IS NOT TRUE
  AND (OLD.{marker} IS NULL AND (NEW.{marker} OPERATOR(pg_catalog.|) 2) OPERATOR(pg_catalog.=) 3) IS NOT TRUE
)
EXECUTE FUNCTION {function}()
