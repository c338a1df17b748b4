-- template: part_down_again
-- version: 1
-- parameters: when, assign, keep
-- Derives a group's old side again because a column changed that down reads (rule 5). Nobody wrote the new side, so a down that
-- raises must not refuse the write: the old side keeps what it had, and the row is marked as failed.

  IF {when} THEN
    BEGIN
{assign}
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
      WHEN OTHERS THEN
        zdm_failed := true;
{keep}
    END;
  END IF;
