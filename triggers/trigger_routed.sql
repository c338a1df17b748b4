-- template: trigger_routed
-- version: 1
-- parameters: trigger, table, function
-- On a parent: what stayed there, or went nowhere, is not under way any more.

CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH STATEMENT
EXECUTE FUNCTION {function}()
