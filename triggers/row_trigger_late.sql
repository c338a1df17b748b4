-- template: row_trigger_late
-- version: 1
-- parameters: trigger, event, table, condition, function
-- A row must have one on the other side by the end of the transaction.

CREATE CONSTRAINT TRIGGER {trigger} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {condition}
EXECUTE FUNCTION {function}()
