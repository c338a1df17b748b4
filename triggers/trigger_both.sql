-- template: trigger_both
-- version: 1
-- parameters: trigger, table, function, columns, marker, bits, group
-- The statement names the old side of a group after it was noted that it names the new one.

CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE OF {columns} ON {table} FOR EACH ROW
WHEN ((NEW.{marker} OPERATOR(pg_catalog.&) {bits}) OPERATOR(pg_catalog.=) {bits})
EXECUTE FUNCTION {function}({group})
