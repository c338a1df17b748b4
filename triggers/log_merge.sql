-- template: log_merge
-- version: 2
-- parameters: parts, to_new, to_old, old, new, old_key, new_key, may, lost_new, disagree
-- Both sides wrote the row: what only one of them wrote goes across, part by part; what both wrote is the later one's, and the other's is
-- recorded. Where the parts together do not agree (a lossy mapping), the whole row is the later one's. Where they leave the mapping's
-- filter, the new side's row goes if the old side had left it by itself, as if it had been deleted there, and nothing of it is carried over; a
-- new row, and one that has left it by what the new side wrote, has no old form.

      IF zdm_from OPERATOR(pg_catalog.=) 'both' THEN
        zdm_may := {may};
        BEGIN
{parts}
{to_new}
{to_old}
          zdm_from := NULL;
          SELECT zdm_s.* INTO zdm_o FROM {old} AS zdm_s WHERE {old_key};
          SELECT zdm_s.* INTO zdm_n FROM {new} AS zdm_s WHERE {new_key};
          IF NOT {may} THEN
            zdm_from := 'new';
            IF NOT zdm_may AND zdm_made_n IS NULL THEN
              RAISE SQLSTATE 'ZDM02';
            END IF;
          ELSIF {disagree} THEN
            zdm_from := CASE WHEN zdm_last_o OPERATOR(pg_catalog.>) zdm_last_n THEN 'old' ELSE 'new' END;
          END IF;
        EXCEPTION
          WHEN SQLSTATE 'ZDM02' THEN
            SELECT zdm_s.* INTO zdm_o FROM {old} AS zdm_s WHERE {old_key};
            SELECT zdm_s.* INTO zdm_n FROM {new} AS zdm_s WHERE {new_key};
{lost_new}
            zdm_from := 'old';
        END;
      END IF;
