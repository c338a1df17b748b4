-- template: trigger_new
-- version: 1
-- parameters: trigger, table, function, columns, bit, open, both
-- The statement names the new side of a group, and that matters: the row is not filled yet, or both sides changed.

CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE OF {columns} ON {table} FOR EACH ROW
WHEN ({open} AND {both})
EXECUTE FUNCTION {function}({bit})
