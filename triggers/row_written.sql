-- template: row_written
-- version: 1
-- parameters: key, key_changed
-- The row is being written by what mirrors the other side, which knows what it holds then. That is said once, and taken back here: what comes
-- of it besides, by a cascade or a trigger of the application, is another write.

    IF zdm_guard OPERATOR(pg_catalog.=) pg_catalog.concat({key}, '@', pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.-) 1)
      AND (TG_OP OPERATOR(pg_catalog.=) 'INSERT' OR TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND NOT {key_changed}) THEN
      zdm_set := pg_catalog.set_config('zdm.row', zdm_guard OPERATOR(pg_catalog.||) '.', true);
      RETURN NULL;
    END IF;
