-- template: log_reference_again
-- version: 1
-- parameters: source, own_key, settled, marker, failed, changes, filter
-- A row that was not filled, or whose values had no parent: its own triggers settle it, with whatever else of it is not.

      IF zdm_has AND NOT zdm_own AND NOT {settled} THEN
        UPDATE {source} AS zdm_s SET {marker} = zdm_s.{marker} WHERE {own_key} RETURNING zdm_s.* INTO zdm_row;
        IF {failed} THEN
          UPDATE {changes} AS zdm_c SET failed = true WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids);
          RETURN 'failed';
        END IF;
      END IF;
