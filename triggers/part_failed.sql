-- template: part_failed
-- version: 2
-- parameters: when, try, group, rollout, table_oid
-- Part of function_failed: finds out whether one group is the one that cannot be derived, and why.

  IF {when} THEN
    zdm_state := NULL;
    BEGIN
{try}
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR lock_not_available OR operator_intervention OR system_error THEN RAISE;
      WHEN OTHERS THEN zdm_state := SQLSTATE; zdm_message := SQLERRM;
    END;
    IF zdm_state IS NOT NULL THEN
      zdm_found := true;
      INSERT INTO zdm.sync_failures (rollout, table_oid, key, group_name, sqlstate, message)
      VALUES ({rollout}, {table_oid}, zdm_key, {group}, zdm_state, zdm_message)
      ON CONFLICT (rollout, table_oid, key, group_name)
      DO UPDATE SET sqlstate = EXCLUDED.sqlstate, message = EXCLUDED.message, at = DEFAULT;
    END IF;
  END IF;
