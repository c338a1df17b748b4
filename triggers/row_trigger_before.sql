-- template: row_trigger_before
-- version: 1
-- parameters: trigger, event, table, level, condition, function
-- A side of a row mapping is about to be written.

CREATE TRIGGER {trigger} BEFORE {event} ON {table} FOR EACH {level} {condition} EXECUTE FUNCTION {function}()
