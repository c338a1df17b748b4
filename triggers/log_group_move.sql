-- template: log_group_move
-- version: 2
-- parameters: one, many, one_key, one_was, many_key, many_was, same_element, assigned, all
-- The elements of a row that took another key go along, unless another row has its former key by now.

    PERFORM FROM {one} AS zdm_s WHERE {one_key} FOR NO KEY UPDATE;
    PERFORM FROM {one} AS zdm_s WHERE {one_was} FOR NO KEY UPDATE;
    IF NOT FOUND THEN
      PERFORM pg_catalog.set_config('zdm.row', {all}, true);
      UPDATE {many} AS zdm_t SET {assigned} WHERE {many_was}
        AND NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {many_key} AND {same_element});
      PERFORM pg_catalog.set_config('zdm.row', '', true);
      zdm_moved := true;
    END IF;
