-- template: log_gather
-- version: 2
-- parameters: changes, failure, filter, needed, settle
-- Makes a row say what the many rows of its key say, where anything is noted of it, or it is asked for.

      IF {needed} AND NOT {settle} THEN
        IF EXISTS (SELECT {failure} AND zdm_f.sqlstate OPERATOR(pg_catalog.=) ANY (ARRAY['23505', '23P01']))
          AND pg_catalog.current_setting('zdm.patient', true) OPERATOR(pg_catalog.=) 'on' THEN
          RETURN 'in the way';
        END IF;
        -- It is the many rows' matter, whoever wrote: nothing of the new version's is lost with it.
        UPDATE {changes} AS zdm_c SET failed = true, side = 'old' WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids);
        RETURN 'failed';
      END IF;
