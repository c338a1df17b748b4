-- template: part_up
-- version: 2
-- parameters: when, assign, unless, keep
-- Derives a group's new side. If up raises, or gives NULL where the new version promises none, the write goes through, the
-- new side keeps what it had, and the row is marked as failed (rules 8 and 9). What is not about the value is raised on.

  IF {when} THEN
    BEGIN
{assign}
      IF {unless} THEN
        zdm_failed := true;
{keep}
      END IF;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR lock_not_available OR operator_intervention OR system_error THEN RAISE;
      WHEN OTHERS THEN
        zdm_failed := true;
{keep}
    END;
  END IF;
