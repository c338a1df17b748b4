-- template: part_guard
-- version: 1
-- parameters: when, row, seed, table, same
-- Until cleanup a key has two unique indexes, on the old and on the new column, and ON CONFLICT names one of them. Two sessions
-- that insert the same key in the same instant would meet at the other one, and one of them would fail where it would have
-- found the row otherwise. So the second waits here for the first, as it would wait at a single index: only for a key that is
-- not there yet. A transaction does so for its first rows only, since every lock takes a place in shared memory.

  IF {when} THEN
    DECLARE
      zdm_guards constant integer := CAST(COALESCE(NULLIF(pg_catalog.current_setting('zdm.guards', true), ''), '0') AS integer);
      zdm_lock bigint;
    BEGIN
      IF zdm_guards OPERATOR(pg_catalog.<) 50 THEN
        PERFORM pg_catalog.set_config('zdm.guards', CAST(zdm_guards OPERATOR(pg_catalog.+) 1 AS pg_catalog.text), true);
        zdm_lock := pg_catalog.hashtextextended(CAST({row} AS pg_catalog.text), {seed});
        IF NOT pg_catalog.pg_try_advisory_xact_lock(zdm_lock) THEN
          BEGIN
            PERFORM FROM {table} AS zdm_table WHERE {same};
            IF NOT FOUND THEN
              PERFORM pg_catalog.pg_advisory_xact_lock(zdm_lock);
            END IF;
          EXCEPTION WHEN insufficient_privilege THEN
            NULL; -- Whoever may not read the key cannot name it in ON CONFLICT either.
          END;
        END IF;
      END IF;
    END;
  END IF;
