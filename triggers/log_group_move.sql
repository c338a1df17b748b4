-- template: log_group_move
-- version: 1
-- parameters: function, settings, quote, one, many, one_side, many_side, lock, one_key, one_was, many_key, many_was, same_element, assigned, all, changes, filter
-- A row that took another key takes its elements along, unless another row has its former key by now, and with them what was noted of both.
-- What a foreign key has moved already, nobody has written. Then it is an update like any other.

CREATE OR REPLACE FUNCTION {function}(zdm_id pg_catalog.int8)
RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_key pg_catalog.text[];
  zdm_was pg_catalog.text[];
  zdm_moved pg_catalog.bool := false;
BEGIN
  SELECT zdm_c.key, zdm_c.was INTO zdm_key, zdm_was FROM {changes} AS zdm_c
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
    PERFORM FROM {one} AS zdm_s WHERE {one_key} FOR NO KEY UPDATE;
    PERFORM FROM {one} AS zdm_s WHERE {one_was} FOR NO KEY UPDATE;
    IF NOT FOUND THEN
      PERFORM pg_catalog.set_config('zdm.row', {all}, true);
      UPDATE {many} AS zdm_t SET {assigned} WHERE {many_was}
        AND NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {many_key} AND {same_element});
      PERFORM pg_catalog.set_config('zdm.row', '', true);
      zdm_moved := true;
    END IF;
  EXCEPTION
    WHEN lock_not_available OR transaction_rollback THEN
      RETURN 'busy';
    WHEN integrity_constraint_violation THEN
      zdm_moved := false;
  END;
  UPDATE {changes} AS zdm_c SET parts = '{{}}'
  WHERE {filter} AND zdm_c.side OPERATOR(pg_catalog.=) {many_side} AND zdm_c.seen OPERATOR(pg_catalog.=) 'moved'
    AND CASE zdm_c.event WHEN 'insert' THEN zdm_c.key OPERATOR(pg_catalog.=) zdm_key WHEN 'delete' THEN zdm_c.key OPERATOR(pg_catalog.=) zdm_was END
    AND EXISTS (SELECT FROM {changes} AS zdm_d WHERE zdm_d.rollout OPERATOR(pg_catalog.=) zdm_c.rollout
      AND zdm_d.mapping OPERATOR(pg_catalog.=) zdm_c.mapping AND zdm_d.side OPERATOR(pg_catalog.=) {many_side}
      AND zdm_d.seen OPERATOR(pg_catalog.=) 'moved' AND zdm_d.element OPERATOR(pg_catalog.=) zdm_c.element
      AND CASE zdm_c.event WHEN 'insert' THEN zdm_d.event OPERATOR(pg_catalog.=) 'delete' AND zdm_d.key OPERATOR(pg_catalog.=) zdm_was
        ELSE zdm_d.event OPERATOR(pg_catalog.=) 'insert' AND zdm_d.key OPERATOR(pg_catalog.=) zdm_key END);
  UPDATE {changes} AS zdm_c SET parts = '{{}}'
  WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) (SELECT pg_catalog.max(zdm_d.id) FROM {changes} AS zdm_d
    WHERE zdm_d.rollout OPERATOR(pg_catalog.=) zdm_c.rollout AND zdm_d.mapping OPERATOR(pg_catalog.=) zdm_c.mapping
      AND zdm_d.side OPERATOR(pg_catalog.=) {one_side} AND zdm_d.event OPERATOR(pg_catalog.=) 'delete'
      AND zdm_d.key OPERATOR(pg_catalog.=) zdm_was AND zdm_d.id OPERATOR(pg_catalog.<) zdm_id)
    AND zdm_c.key OPERATOR(pg_catalog.=) zdm_was;
  UPDATE {changes} AS zdm_c SET key = zdm_key
  WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_was
    AND (zdm_c.side OPERATOR(pg_catalog.=) {one_side} AND zdm_c.event OPERATOR(pg_catalog.<>) 'delete' AND zdm_c.id OPERATOR(pg_catalog.<) zdm_id
      OR zdm_c.side OPERATOR(pg_catalog.=) {many_side} AND zdm_c.parts IS NULL AND zdm_moved);
  UPDATE {changes} AS zdm_c SET event = 'update', was = NULL, parts = CASE WHEN zdm_moved THEN zdm_c.parts END
  WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) zdm_id;
  RETURN 'done';
END
{quote}
