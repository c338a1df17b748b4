-- template: element_unsaid
-- version: 1
-- parameters: keys, filled, failure, agree, not_filled, no_form
-- The new version has written a row that does not hold what the old version's rows say: it is not filled yet, or they have no form in it.
-- What is written was not computed from them, and would replace them.

        IF zdm_how OPERATOR(pg_catalog.=) 'update' AND (NOT EXISTS (SELECT {filled}) OR EXISTS (SELECT {failure})) THEN
          -- They have gone along to another key by now.
{keys}
          IF NOT {agree} THEN
            IF EXISTS (SELECT {failure}) THEN
              RAISE object_not_in_prerequisite_state USING MESSAGE = pg_catalog.format({no_form}, zdm_mine),
                HINT = 'zdm.sync_failures says why. Correct it there first; it would be overwritten.';
            END IF;
            RAISE object_not_in_prerequisite_state USING MESSAGE = pg_catalog.format({not_filled}, zdm_mine),
              HINT = 'Until migration is complete, read the old structure and write it; then the row is filled.';
          END IF;
        END IF;
