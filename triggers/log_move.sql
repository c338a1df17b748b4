-- template: log_move
-- version: 1
-- parameters: function, settings, quote, old, new, lock, old_key, new_key, old_was, new_was, changes, filter, move_new, move_old
-- A row that took another key takes the other side's row along, so that what only that one knows stays, and with it what was noted
-- of both. Then it is an update like any other.

CREATE OR REPLACE FUNCTION {function}(zdm_id pg_catalog.int8)
RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp{settings} AS {quote}
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
    PERFORM FROM {old} AS zdm_s WHERE {old_was} FOR NO KEY UPDATE;
    PERFORM FROM {old} AS zdm_s WHERE {old_key} FOR NO KEY UPDATE;
    PERFORM FROM {new} AS zdm_s WHERE {new_was} FOR NO KEY UPDATE;
    PERFORM FROM {new} AS zdm_s WHERE {new_key} FOR NO KEY UPDATE;
    IF zdm_side OPERATOR(pg_catalog.=) 'old' THEN
{move_new}
    ELSE
{move_old}
    END IF;
  EXCEPTION
    WHEN lock_not_available OR transaction_rollback THEN
      RETURN 'busy';
    WHEN integrity_constraint_violation THEN
      zdm_moved := false;
  END;
  UPDATE {changes} AS zdm_c SET key = zdm_key
  WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_was AND zdm_c.event OPERATOR(pg_catalog.<>) 'delete'
    AND (zdm_c.side OPERATOR(pg_catalog.=) zdm_side AND zdm_c.id OPERATOR(pg_catalog.<) zdm_id
      OR zdm_c.side OPERATOR(pg_catalog.<>) zdm_side AND zdm_moved);
  UPDATE {changes} AS zdm_c SET event = 'update', was = NULL WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) zdm_id;
  RETURN 'done';
END
{quote}
