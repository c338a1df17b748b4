-- template: log_group_read
-- version: 1
-- parameters: changes, filter, group, guard, many, many_side, named, one, one_key, one_side, order
-- A row and its elements, locked, and what was noted of either.

      zdm_from := NULL;
      SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {one_key} FOR NO KEY UPDATE;
      zdm_has := FOUND;
      IF NOT zdm_has THEN
{named}
      END IF;
      zdm_mine := {guard};
      PERFORM FROM {many} AS zdm_m WHERE {group} ORDER BY {order} FOR NO KEY UPDATE;
      SELECT COALESCE(pg_catalog.array_agg(zdm_c.id), '{{}}'), pg_catalog.max(zdm_c.id),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {one_side} AND zdm_c.parts IS NULL),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {many_side} AND zdm_c.parts IS NULL),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {one_side}
          AND zdm_c.event OPERATOR(pg_catalog.=) 'delete'),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {one_side}
          AND zdm_c.event OPERATOR(pg_catalog.=) 'delete' AND zdm_c.parts IS NULL),
        COALESCE(pg_catalog.bool_or(zdm_c.side OPERATOR(pg_catalog.=) {many_side} AND zdm_c.element IS NULL), false),
        COALESCE(pg_catalog.bool_or(zdm_c.seen OPERATOR(pg_catalog.=) 'alone'), false)
      INTO zdm_ids, zdm_latest, zdm_one, zdm_many, zdm_gone, zdm_ended, zdm_emptied, zdm_alone
      FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key;
      IF EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'key' AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key)
        OR EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.was OPERATOR(pg_catalog.=) zdm_key)
        OR EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'truncate'
          AND zdm_c.id OPERATOR(pg_catalog.<) zdm_latest) THEN
        RETURN 'busy';
      END IF;
