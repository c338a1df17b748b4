-- template: log_reconcile
-- version: 3
-- parameters: again, changes, decide, filter, merge, settle_new, settle_old
-- Whose row counts, or what of either, and the other one written accordingly.

{decide}
{merge}
      IF zdm_from OPERATOR(pg_catalog.=) 'old' THEN
        IF NOT {settle_new} THEN
          UPDATE {changes} AS zdm_c SET failed = true WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids);
          RETURN 'failed';
        END IF;
      ELSIF zdm_from OPERATOR(pg_catalog.=) 'new' THEN
        PERFORM {settle_old};
      END IF;
{again}
