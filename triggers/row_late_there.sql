-- template: row_late_there
-- version: 1
-- parameters: target, match, settle, signature
-- A row that another mapping made, and which has one over there already: what that one says was written, and what the row holds of it was not.

    IF pg_catalog.to_regprocedure({signature}) IS NOT NULL THEN
      PERFORM {settle}(zdm_t, false, false) FROM {target} AS zdm_t WHERE {match};
      IF FOUND THEN
        RETURN NULL;
      END IF;
    END IF;
