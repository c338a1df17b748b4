-- template: part_leave
-- version: 1
-- parameters:
-- The counterpart of part_enter.

  IF zdm_path IS NOT NULL THEN
    PERFORM pg_catalog.set_config('search_path', zdm_path, true);
  END IF;
