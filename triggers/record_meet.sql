-- template: record_meet
-- version: 2
-- parameters: silent, target, columns, values, key, notes, bucket, match, settle
-- A row of the old side that is not seen: an INSERT of its key waits for whoever is making it, and above READ COMMITTED raises a serialization
-- error if it was made since the snapshot. What the INSERT makes where there is nothing to meet is undone; another key is looked at only
-- after this one. Where something else is in its way (a constraint, a trigger) it says nothing, and the notes are asked: whoever makes a row that
-- says nothing leaves one, and is waited for. Those that a snapshot does not see at all are younger than that.

      IF NOT zdm_found THEN
        zdm_found := NULL;
        BEGIN
          PERFORM pg_catalog.set_config('zdm.row', {silent}, true);
          INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE {values} ON CONFLICT ({key}) DO NOTHING;
          IF FOUND THEN
            RAISE no_data_found;
          END IF;
          PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
        EXCEPTION
          WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
            OR system_error THEN RAISE;
          WHEN no_data_found OR unique_violation THEN zdm_found := false;
          WHEN OTHERS THEN NULL;
        END;
        IF zdm_found IS NULL THEN
          BEGIN
            PERFORM FROM {notes} AS zdm_m WHERE zdm_m.bucket OPERATOR(pg_catalog.=) {bucket} FOR SHARE;
            IF NOT FOUND THEN
              RAISE serialization_failure USING MESSAGE = 'could not serialize access: the row it belongs to may not be seen';
            END IF;
            RAISE no_data_found;
          EXCEPTION
            WHEN no_data_found THEN NULL;
          END;
        END IF;
        IF EXISTS (SELECT FROM {target} AS zdm_t WHERE {match}) THEN
          PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
          RETURN {settle}(zdm_at, zdm_lazy, zdm_first);
        END IF;
      END IF;
