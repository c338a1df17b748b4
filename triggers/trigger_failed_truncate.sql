-- template: trigger_failed_truncate
-- version: 1
-- parameters: trigger, table, function
-- All rows go.

CREATE OR REPLACE TRIGGER {trigger} AFTER TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}()
