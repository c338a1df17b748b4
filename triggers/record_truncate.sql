-- template: record_truncate
-- version: 1
-- parameters: target, guard, recorded
-- All rows go but those that are recorded as having no old form; a snapshot that might not see some is refused.

    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
      RAISE serialization_failure USING MESSAGE = 'could not serialize access due to TRUNCATE of a table that is mirrored';
    END IF;
    PERFORM pg_catalog.set_config('zdm.row', {guard}, true);
    DELETE FROM {target} AS zdm_t WHERE NOT {recorded};
    PERFORM pg_catalog.set_config('zdm.row', '', true);
