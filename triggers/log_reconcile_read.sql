-- template: log_reconcile_read
-- version: 1
-- parameters: alone, changes, filter, name_new, name_old, new, new_key, old, old_key, told, winners
-- The two rows of a key, locked, and what was noted of it, part by part.

      zdm_from := NULL;
      SELECT zdm_s.* INTO zdm_o FROM {old} AS zdm_s WHERE {old_key} FOR NO KEY UPDATE;
      zdm_has_o := FOUND;
      SELECT zdm_s.* INTO zdm_n FROM {new} AS zdm_s WHERE {new_key} FOR NO KEY UPDATE;
      zdm_has_n := FOUND;
      IF NOT zdm_has_o THEN
{name_old}
      END IF;
      IF NOT zdm_has_n THEN
{name_new}
      END IF;
{alone}
      SELECT COALESCE(pg_catalog.array_agg(zdm_c.id), '{{}}'), {winners}
      INTO zdm_ids, {told}
      FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key;
      IF EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'key' AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key)
        OR EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.was OPERATOR(pg_catalog.=) zdm_key) THEN
        RETURN 'busy';
      END IF;
