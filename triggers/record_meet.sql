-- template: record_meet
-- version: 1
-- parameters: asked, silent, target, columns, values, key, unsure, again
-- A row over there that is not seen: an INSERT of its key waits for whoever is making it, and above READ COMMITTED raises a serialization
-- error if it was made since the snapshot. Both sides ask so after their own row is there, so that at least one of two that come
-- at the same moment meets the other. What the INSERT makes where there is nothing to meet is undone; another key is looked at only after this one.

    IF {asked} THEN
      BEGIN
        PERFORM pg_catalog.set_config('zdm.row', {silent}, true);
        INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE {values} ON CONFLICT ({key}) DO NOTHING;
        IF FOUND THEN
          RAISE no_data_found;
        END IF;
{unsure}
        PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
          OR system_error THEN RAISE;
        WHEN no_data_found OR unique_violation THEN NULL;
        WHEN OTHERS THEN
{unsure}
      END;
{again}
    END IF;
