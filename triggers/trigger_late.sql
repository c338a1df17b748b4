-- template: trigger_late
-- version: 1
-- parameters: quote, trigger, called, table, relation, function, event, condition
-- A row that was written with a reference that was not found. There is no CREATE OR REPLACE for such a trigger.

DO {quote}
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = {relation}::pg_catalog.regclass AND tgname = {called}) THEN
    CREATE CONSTRAINT TRIGGER {trigger} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ({condition}) EXECUTE FUNCTION {function}();
  END IF;
END
{quote}
