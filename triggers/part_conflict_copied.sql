-- template: part_conflict_copied
-- version: 1
-- parameters: given, differs, refuse
-- Part of part_copy, where a copy that was written and disagrees is refused. What zdm itself writes again is none.

    IF NOT zdm_failed AND {given} AND {differs}
      AND pg_catalog.current_setting('zdm.settling', true) IS DISTINCT FROM 'on' THEN
{refuse}
    END IF;
