-- template: log_referring
-- version: 2
-- parameters: old, new, old_key, new_key, name_new, astray, back, clear, refers
-- A row that stands on its own has got one on the new side, or has none any more; what refers to that says which. What is recorded of one that is
-- not there is still looked for by its key.

        SELECT zdm_s.* INTO zdm_n FROM {new} AS zdm_s WHERE {new_key};
        IF NOT FOUND THEN
{name_new}
          UPDATE {old} AS zdm_s SET {clear} WHERE {old_key} AND {refers};
        ELSE
          SELECT zdm_s.* INTO zdm_o FROM {old} AS zdm_s WHERE {old_key};
          IF {astray} THEN
            PERFORM {back};
          END IF;
        END IF;
