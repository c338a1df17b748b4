-- template: trigger_named
-- version: 1
-- parameters: trigger, table, function, columns, bit, open, matters
-- The statement names one side of a group, and that matters: the row is not filled yet, both sides changed, or the side
-- would be derived again although the statement says what it is.

CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE OF {columns} ON {table} FOR EACH ROW
WHEN ({open} AND {matters})
EXECUTE FUNCTION {function}({bit})
