-- template: trigger_settle
-- version: 1
-- parameters: trigger, table, function, open, due
-- Any UPDATE of a row that nobody has settled, or that changes a column which the mapping reads or writes.

CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {table} FOR EACH ROW
WHEN ({open} AND {due})
EXECUTE FUNCTION {function}()
