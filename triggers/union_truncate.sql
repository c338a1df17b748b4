-- template: union_truncate
-- version: 1
-- parameters: mirrored, target, theirs, guard
-- All rows of one old table went, so those that it made go. A snapshot that might not see some is refused.

    IF zdm_guard OPERATOR(pg_catalog.<>) {mirrored} THEN
      IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
        RAISE serialization_failure USING MESSAGE = 'could not serialize access due to TRUNCATE of a table that is mirrored',
          HINT = 'TRUNCATE it at READ COMMITTED, or DELETE its rows.';
      END IF;
      PERFORM pg_catalog.set_config('zdm.row', {guard}, true);
      DELETE FROM {target} AS zdm_t WHERE {theirs};
      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
    END IF;
