-- template: trigger_failed_insert
-- version: 1
-- parameters: trigger, table, function, marker
-- A new row whose new side could not be derived.

CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH ROW
WHEN ((NEW.{marker} OPERATOR(pg_catalog.&) 2) OPERATOR(pg_catalog.<>) 0)
EXECUTE FUNCTION {function}()
