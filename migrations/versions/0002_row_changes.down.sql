-- Takes the log away, and what lost with it. Refused while a change waits there: it would be lost.
DO $$
BEGIN
    IF EXISTS (SELECT FROM zdm.row_changes) THEN
        RAISE EXCEPTION 'changes wait in zdm.row_changes'
            USING ERRCODE = 'object_in_use', HINT = 'Complete the rollouts that are synced by log, or roll them back.';
    END IF;
END $$;

DROP TABLE zdm.row_changes, zdm.row_conflicts;
