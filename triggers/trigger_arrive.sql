-- template: trigger_arrive
-- version: 1
-- parameters: trigger, table, function, oid
-- On a child without children: a row that is under way from a parent arrives.

CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH ROW
WHEN (COALESCE(pg_catalog.current_setting('zdm.route', true), '') OPERATOR(pg_catalog.=) {oid})
EXECUTE FUNCTION {function}('child')
