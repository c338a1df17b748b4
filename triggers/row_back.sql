-- template: row_back
-- version: 1
-- parameters: target, match, settle, signature
-- A trigger of the application's, before the row was written over there, gave it something else than it was meant to hold: the row that
-- it is the mirror of follows, once. Nothing does that before the other side is mirrored, too.

    IF NOT zdm_stored AND NOT zdm_mirrored AND pg_catalog.to_regprocedure({signature}) IS NOT NULL THEN
      PERFORM {settle}(zdm_t, false, false) FROM {target} AS zdm_t WHERE {match};
    END IF;
