-- template: part_try
-- version: 2
-- parameters: assign, result
-- Asks whether what one side holds follows from the other, with the column's own assignment (too long is a no, not a cut).

    BEGIN
      zdm_try := NEW;
{assign}
      zdm_agree := {result};
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR lock_not_available OR operator_intervention OR system_error THEN RAISE;
      WHEN OTHERS THEN zdm_agree := false;
    END;
