-- template: trigger_follow
-- version: 1
-- parameters: trigger, event, table, condition, function
-- On a table of whose columns others have copies. It sorts before the server's own, which check, and cascade by, foreign keys.

CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table} FOR EACH ROW {condition} EXECUTE FUNCTION {function}()
