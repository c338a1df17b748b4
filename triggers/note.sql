-- template: note
-- version: 1
-- parameters: notes, bucket
-- Notes that a row came, in a row of this session's own where it can be had; so that whoever does not see the row meets the note.

        DECLARE
          zdm_bucket integer := {bucket};
          zdm_own constant integer := pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.&) 63;
          zdm_slot integer;
          zdm_noted boolean;
        BEGIN
          FOR zdm_n IN 0 .. 63 LOOP
            zdm_slot := (zdm_own OPERATOR(pg_catalog.+) zdm_n) OPERATOR(pg_catalog.&) 63;
            SELECT zdm_t.noted OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id() INTO zdm_noted FROM {notes} AS zdm_t
            WHERE zdm_t.bucket OPERATOR(pg_catalog.=) zdm_bucket AND zdm_t.slot OPERATOR(pg_catalog.=) zdm_slot
            FOR UPDATE SKIP LOCKED;
            EXIT WHEN FOUND;
            zdm_slot := zdm_own;
          END LOOP;
          IF zdm_noted IS NOT TRUE THEN
            UPDATE {notes} AS zdm_t SET noted = pg_catalog.pg_current_xact_id()
            WHERE zdm_t.bucket OPERATOR(pg_catalog.=) zdm_bucket AND zdm_t.slot OPERATOR(pg_catalog.=) zdm_slot;
          END IF;
        END;
