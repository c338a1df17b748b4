-- template: log_merge
-- version: 1
-- parameters: parts, to_new, to_old, old, new, old_key, new_key, disagree
-- Both sides wrote the row: what only one of them wrote goes across, part by part; what both wrote is the later one's, and the other's is
-- recorded. Where the parts together do not agree (a lossy mapping), the whole row is the later one's.

      IF zdm_from OPERATOR(pg_catalog.=) 'both' THEN
{parts}
{to_new}
{to_old}
        zdm_from := NULL;
        SELECT zdm_s.* INTO zdm_o FROM {old} AS zdm_s WHERE {old_key};
        SELECT zdm_s.* INTO zdm_n FROM {new} AS zdm_s WHERE {new_key};
        IF {disagree} THEN
          zdm_from := CASE WHEN zdm_last_o OPERATOR(pg_catalog.>) zdm_last_n THEN 'old' ELSE 'new' END;
        END IF;
      END IF;
