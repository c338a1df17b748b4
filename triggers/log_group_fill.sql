-- template: log_group_fill
-- version: 1
-- parameters: many_side, columns, elements, split, many, collides, lost_one, changes, filter, element, arbiter
-- Elements that nobody had filled when the first one was added: those that have not been taken away since.

      IF zdm_has AND zdm_alone AND NOT zdm_emptied AND zdm_from OPERATOR(pg_catalog.=) {many_side} AND NOT EXISTS (SELECT FROM {changes} AS zdm_c
        WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'truncate' AND zdm_c.side OPERATOR(pg_catalog.=) {many_side}) THEN
        IF EXISTS (SELECT FROM ({split}) AS zdm_e JOIN {many} AS zdm_m ON {collides}) THEN
{lost_one}
        END IF;
        INSERT INTO {many} ({columns}) OVERRIDING SYSTEM VALUE SELECT {elements} FROM ({split}) AS zdm_e
        WHERE NOT EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key
          AND zdm_c.event OPERATOR(pg_catalog.=) 'delete' AND zdm_c.element OPERATOR(pg_catalog.=) {element})
        ON CONFLICT ({arbiter}) DO NOTHING;
      END IF;
