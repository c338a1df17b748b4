-- template: row_go
-- version: 3
-- parameters: target, match, passing, probe_columns, probe_values, silent
-- Lets the other side's row go. At REPEATABLE READ a row that the backfill has made meanwhile is not seen by DELETE; an INSERT of
-- the same key meets it, and raises a serialization error. What the INSERT makes where there is nothing to meet is undone with all that
-- its triggers did; ours are told beforehand, because the row it would be the mirror of has gone.

    DELETE FROM {target} AS zdm_t WHERE {match};
    IF FOUND THEN
      NULL;
    ELSIF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed' THEN
{passing}
    ELSE
      BEGIN
        PERFORM pg_catalog.set_config('zdm.row', {silent}, true);
        INSERT INTO {target} ({probe_columns}) OVERRIDING SYSTEM VALUE VALUES ({probe_values}) ON CONFLICT DO NOTHING;
        RAISE no_data_found;
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
          OR system_error THEN RAISE;
        WHEN OTHERS THEN NULL;
      END;
    END IF;
