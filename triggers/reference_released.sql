-- template: reference_released
-- version: 2
-- parameters: parent, source, referred, users, filled, kept
-- A parent that the old version let go of goes if nothing else refers to it. Whoever is about to refer to it holds its lock, so that
-- it is passed over, or waits for this one's, and makes a new one. One that is used at first sight is not locked, since others may be
-- about to take it. Only what the statement sees now can say that: at READ COMMITTED. Until every row is filled, one of those that are
-- not may have it. Nor does it go where a foreign key would take others along.

    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed' AND EXISTS (SELECT {filled}) AND NOT EXISTS (SELECT {kept}) THEN
      BEGIN
        PERFORM FROM {parent} AS zdm_p WHERE {referred} AND NOT EXISTS (SELECT FROM {source} AS zdm_s WHERE {users})
        FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
          DELETE FROM {parent} AS zdm_p WHERE {referred} AND NOT EXISTS (SELECT FROM {source} AS zdm_s WHERE {users});
        END IF;
      EXCEPTION
        WHEN integrity_constraint_violation THEN NULL;
      END;
    END IF;
