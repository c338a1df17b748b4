-- template: part_lookup_leave
-- version: 1
-- parameters: marker
-- A row that refers to one which is not filled yet is left to the backfill, unless the marker has something else to say.

  IF zdm_wait THEN
    NEW.{marker} := CASE WHEN zdm_failed OR zdm_bits OPERATOR(pg_catalog.<>) 0
      THEN NEW.{marker} OPERATOR(pg_catalog.|) 2 END;
  END IF;
