-- template: log_moved
-- version: 2
-- parameters: function, path, settings, quote, lock, changes, filter, take, noted, also
-- What is noted of a row that took another key, if nothing before it waits that concerns either key. The other side's row may go along, and what
-- was noted under the former key with it; then it is an update like any other.

CREATE OR REPLACE FUNCTION {function}(zdm_id pg_catalog.int8)
RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_key pg_catalog.text[];
  zdm_was pg_catalog.text[];
  zdm_side pg_catalog.text;
  zdm_moved pg_catalog.bool := false;
BEGIN
  SELECT zdm_c.key, zdm_c.was, zdm_c.side INTO zdm_key, zdm_was, zdm_side FROM {changes} AS zdm_c
  WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) zdm_id AND zdm_c.event OPERATOR(pg_catalog.=) 'key';
  IF NOT FOUND THEN
    RETURN 'done';
  ELSIF NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({lock} OPERATOR(pg_catalog.||) zdm_key::pg_catalog.text, 0))
    OR NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({lock} OPERATOR(pg_catalog.||) zdm_was::pg_catalog.text, 0))
    OR EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'key'
      AND zdm_c.id OPERATOR(pg_catalog.<) zdm_id AND (zdm_c.key OPERATOR(pg_catalog.=) zdm_key OR zdm_c.was OPERATOR(pg_catalog.=) zdm_key
        OR zdm_c.key OPERATOR(pg_catalog.=) zdm_was OR zdm_c.was OPERATOR(pg_catalog.=) zdm_was)) THEN
    RETURN 'busy';
  END IF;
  BEGIN
{take}
  EXCEPTION
    WHEN lock_not_available OR transaction_rollback THEN
      RETURN 'busy';
    WHEN integrity_constraint_violation THEN
      zdm_moved := false;
  END;
{noted}
  UPDATE {changes} AS zdm_c SET event = 'update', was = NULL{also} WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) zdm_id;
  RETURN 'done';
END
{quote}
