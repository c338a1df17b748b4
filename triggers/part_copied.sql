-- template: part_copied
-- version: 1
-- parameters: marker, new, old, table
-- A row that is copied whole (SELECT *) and given another old key is another row: the new key that came with it is the first one's.

  IF NEW.{marker} OPERATOR(pg_catalog.>=) 0 AND NEW.{new} IS NOT NULL THEN
    BEGIN
      PERFORM FROM {table} AS zdm_table WHERE zdm_table.{new} OPERATOR(pg_catalog.=) NEW.{new}
        AND zdm_table.{old} OPERATOR(pg_catalog.<>) NEW.{old};
      IF FOUND THEN
        NEW.{new} := NULL;
      END IF;
    EXCEPTION WHEN insufficient_privilege THEN
      NULL; -- Whoever may not read the key cannot have copied it either.
    END;
  END IF;
