-- template: log_move_noted
-- version: 1
-- parameters: changes, filter
-- What was noted of the row, and of the other side's if that went along, is of its key of now.

  UPDATE {changes} AS zdm_c SET key = zdm_key
  WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_was AND zdm_c.event OPERATOR(pg_catalog.<>) 'delete'
    AND (zdm_c.side OPERATOR(pg_catalog.=) zdm_side AND zdm_c.id OPERATOR(pg_catalog.<) zdm_id
      OR zdm_c.side OPERATOR(pg_catalog.<>) zdm_side AND zdm_moved);
