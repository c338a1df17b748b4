-- template: record_write
-- version: 1
-- parameters: target, columns, values, key, match, recorded, adopt, conflict, forget, update
-- Makes the new side's row, or writes the one that is there. One that comes at the same moment is met by its key, and waited for; if it
-- is recorded as having no old form, and this side says something else, what it held is kept as what lost.

    INSERT INTO {target} AS zdm_t ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values}) ON CONFLICT ({key}) DO NOTHING;
    IF NOT FOUND THEN
      IF NOT zdm_mirrored THEN
        PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
        IF NOT {recorded} THEN
          NULL;
{adopt}
        ELSE
{conflict}
{forget}
        END IF;
      END IF;
{update}
    END IF;
