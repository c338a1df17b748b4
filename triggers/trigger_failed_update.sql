-- template: trigger_failed_update
-- version: 1
-- parameters: trigger, table, function, marker
-- A row whose new side could not be derived, or could not be before.

CREATE OR REPLACE TRIGGER {trigger} AFTER UPDATE ON {table} FOR EACH ROW
WHEN (((COALESCE(OLD.{marker}, 0) OPERATOR(pg_catalog.|) NEW.{marker}) OPERATOR(pg_catalog.&) 2) OPERATOR(pg_catalog.<>) 0)
EXECUTE FUNCTION {function}()
