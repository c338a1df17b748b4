-- template: log_group_outlived
-- version: 1
-- parameters: many, group, changes, filter, many_side, element
-- A row that went and came again: elements that nobody has written since were the former one's.

      IF zdm_has AND zdm_ended IS NOT NULL THEN
        DELETE FROM {many} AS zdm_m WHERE {group} AND NOT EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter}
          AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key AND zdm_c.side OPERATOR(pg_catalog.=) {many_side}
          AND zdm_c.event OPERATOR(pg_catalog.<>) 'delete' AND zdm_c.element OPERATOR(pg_catalog.=) {element}
          AND COALESCE(zdm_c.origin, zdm_c.id) OPERATOR(pg_catalog.>) zdm_ended);
      END IF;
