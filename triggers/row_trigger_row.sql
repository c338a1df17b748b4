-- template: row_trigger_row
-- version: 1
-- parameters: trigger, event, table, condition, function
-- A row of one side of a row mapping was written.

CREATE TRIGGER {trigger} AFTER {event} ON {table} FOR EACH ROW {condition} EXECUTE FUNCTION {function}()
