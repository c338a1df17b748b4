-- Takes the record away. Refused while it holds a row: after a rollback it is there only.
DO $$
BEGIN
    IF EXISTS (SELECT FROM zdm.rows_without_old_form) THEN
        RAISE EXCEPTION 'zdm.rows_without_old_form holds rows that the old version has no form for'
            USING ERRCODE = 'object_in_use', HINT = 'Complete the rollouts that record them; save what rollbacks kept, and delete it.';
    END IF;
END $$;

DROP TABLE zdm.rows_without_old_form;
ALTER TABLE zdm.verifications DROP COLUMN without_old_form;
