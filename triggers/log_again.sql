-- template: log_again
-- version: 1
-- parameters: old, new, old_key, new_key, name_old, name_new, differ, back, forth, missing
-- A trigger of the application may have changed what was just carried over: then it goes back, once. A row that must have one over there
-- is given it.

      SELECT zdm_s.* INTO zdm_o FROM {old} AS zdm_s WHERE {old_key};
      zdm_has_o := FOUND;
      IF NOT FOUND THEN
{name_old}
      END IF;
      SELECT zdm_s.* INTO zdm_n FROM {new} AS zdm_s WHERE {new_key};
      zdm_has_n := FOUND;
      IF NOT FOUND THEN
{name_new}
      END IF;
      IF zdm_has_o AND zdm_has_n THEN
        IF {differ} THEN
          IF zdm_from IS NOT DISTINCT FROM 'new' THEN
            PERFORM {forth};
          ELSE
            PERFORM {back};
          END IF;
        END IF;
      ELSIF zdm_has_o THEN
{missing}
      END IF;
