-- template: trigger_route
-- version: 1
-- parameters: trigger, table, function
-- On a parent, before any trigger of the application: notes whether the row is the new version's, until it arrives.

CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH ROW
EXECUTE FUNCTION {function}()
