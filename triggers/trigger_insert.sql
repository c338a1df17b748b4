-- template: trigger_insert
-- version: 1
-- parameters: trigger, table, function
-- Every new row of the table, whichever version's application inserts it.

CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()
