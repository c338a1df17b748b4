-- template: log_group_move_noted
-- version: 1
-- parameters: changes, filter, many_side, one_side
-- What a foreign key has moved already, nobody has written. What was noted of the row, and of its elements if they went along, is of its key of now.

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
