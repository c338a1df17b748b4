-- template: log_gather_read
-- version: 1
-- parameters: changes, filter, named, one, one_key
-- The row of a key, locked, and what was noted of it. The many are not locked: what is written to them meanwhile is noted, and found at the end or later.

      SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {one_key} FOR NO KEY UPDATE;
      zdm_has := FOUND;
      IF NOT zdm_has THEN
{named}
      END IF;
      SELECT COALESCE(pg_catalog.array_agg(zdm_c.id), '{{}}') INTO zdm_ids
      FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key;
