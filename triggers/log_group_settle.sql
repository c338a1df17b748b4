-- template: log_group_settle
-- version: 1
-- parameters: settle_many, failure, changes, filter
-- Makes the elements say what the row says. What another row's value stands in the way of is tried again.

        IF NOT {settle_many}(zdm_row, zdm_row, 'reconcile') THEN
          IF EXISTS (SELECT {failure} AND zdm_f.sqlstate OPERATOR(pg_catalog.=) ANY (ARRAY['23505', '23P01']))
            AND pg_catalog.current_setting('zdm.patient', true) OPERATOR(pg_catalog.=) 'on' THEN
            RETURN 'in the way';
          END IF;
          UPDATE {changes} AS zdm_c SET failed = true WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids);
          RETURN 'failed';
        END IF;
