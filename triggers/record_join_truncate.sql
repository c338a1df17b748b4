-- template: record_join_truncate
-- version: 1
-- parameters: target, guard, clear, holds, recorded
-- All rows of the old side went: columns are emptied but where they hold what has no old form; a snapshot that might not see some is refused.

    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
      RAISE serialization_failure USING MESSAGE = 'could not serialize access due to TRUNCATE of a table that is mirrored';
    END IF;
    PERFORM pg_catalog.set_config('zdm.row', {guard}, true);
    UPDATE {target} AS zdm_t SET {clear} WHERE {holds} AND NOT {recorded};
    PERFORM pg_catalog.set_config('zdm.row', '', true);
