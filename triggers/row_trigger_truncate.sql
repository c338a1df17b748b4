-- template: row_trigger_truncate
-- version: 1
-- parameters: trigger, table, function
-- All rows of one side went.

CREATE TRIGGER {trigger} AFTER TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}()
