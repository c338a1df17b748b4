-- template: row_adopt
-- version: 1
-- parameters: holds, guard, table, assign, target, match, own_key, failure
-- A row that is inserted without values of its own, where the other side has its row already, is given what that one says.

    IF zdm_first AND NOT {holds} THEN
      PERFORM pg_catalog.set_config('zdm.row', {guard}, true);
      BEGIN
        UPDATE {table} AS zdm_s SET {assign} FROM {target} AS zdm_t WHERE {own_key} AND {match};
        IF FOUND THEN
          DELETE {failure};
        END IF;
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
          OR system_error THEN RAISE;
        WHEN OTHERS THEN NULL;
      END;
      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
      RETURN true;
    END IF;
