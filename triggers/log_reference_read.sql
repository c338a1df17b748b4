-- template: log_reference_read
-- version: 1
-- parameters: source, own_key, named, changes, filter, own
-- A row, locked, and what was noted of it since another one of its key went (an INSERT is noted also where it meets the row). Whose word counts the row itself says: who wrote it last. Where nobody has, it is its
-- parent that another name was given, and the row follows.

      SELECT zdm_s.* INTO zdm_row FROM {source} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
      zdm_has := FOUND;
      IF NOT zdm_has THEN
{named}
      END IF;
      IF EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'key' AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key)
        OR EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.was OPERATOR(pg_catalog.=) zdm_key) THEN
        RETURN 'busy';
      END IF;
      SELECT COALESCE(pg_catalog.array_agg(zdm_c.id), '{{}}'),
        COALESCE(pg_catalog.max(zdm_c.id) FILTER (WHERE zdm_c.event OPERATOR(pg_catalog.=) 'delete'), 0)
      INTO zdm_ids, zdm_since
      FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key;
      SELECT COALESCE(pg_catalog.max(zdm_c.id) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) 'old' AND zdm_c.parts OPERATOR(pg_catalog.&&) '{{1}}'), 0),
        COALESCE(pg_catalog.max(zdm_c.id) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) 'new' AND zdm_c.parts OPERATOR(pg_catalog.&&) '{{1}}'), 0),
        COALESCE(pg_catalog.max(zdm_c.id) FILTER (WHERE zdm_c.parts OPERATOR(pg_catalog.&&) '{{2}}'), 0),
        COALESCE(pg_catalog.bool_or(zdm_c.origin IS NOT NULL), false)
      INTO zdm_old, zdm_new, zdm_beside, zdm_follows
      FROM {changes} AS zdm_c WHERE zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids) AND zdm_c.id OPERATOR(pg_catalog.>=) zdm_since;
      zdm_own := {own} OR (zdm_follows AND zdm_old OPERATOR(pg_catalog.=) 0 AND zdm_beside OPERATOR(pg_catalog.=) 0);
