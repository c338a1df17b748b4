-- template: trigger_failed_delete
-- version: 1
-- parameters: trigger, table, function, marker
-- A row goes whose new side could not be derived.

CREATE OR REPLACE TRIGGER {trigger} AFTER DELETE ON {table} FOR EACH ROW
WHEN ((OLD.{marker} OPERATOR(pg_catalog.&) 2) OPERATOR(pg_catalog.<>) 0)
EXECUTE FUNCTION {function}()
