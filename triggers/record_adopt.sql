-- template: record_adopt
-- version: 1
-- parameters: holds, target, match, settle
-- This side has a row by now that says nothing: the recorded one may have a form in it.

    ELSIF zdm_found AND NOT {holds} THEN
      SELECT zdm_t.* INTO zdm_recorded FROM {target} AS zdm_t WHERE {match};
      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
      PERFORM {settle}(zdm_recorded, false, false);
      RETURN true;
