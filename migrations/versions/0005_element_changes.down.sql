-- Takes the columns away. Refused while an entry has them.
DO $$
BEGIN
    IF EXISTS (SELECT FROM zdm.row_changes WHERE element IS NOT NULL) THEN
        RAISE EXCEPTION 'changes of elements wait in zdm.row_changes'
            USING ERRCODE = 'object_in_use', HINT = 'Complete the rollouts that are synced by log, or roll them back.';
    END IF;
END $$;

ALTER TABLE zdm.row_changes DROP COLUMN element, DROP COLUMN seen;
