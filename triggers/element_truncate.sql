-- template: element_truncate
-- version: 1
-- parameters: target, guard, element
-- All elements go, and not the rows of something else beside them, so TRUNCATE cannot be said; a snapshot that might not see some is refused.

    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
      RAISE serialization_failure USING MESSAGE = 'could not serialize access due to TRUNCATE of a table that is mirrored';
    END IF;
    PERFORM pg_catalog.set_config('zdm.row', {guard}, true);
    DELETE FROM {target} AS zdm_m WHERE {element};
    PERFORM pg_catalog.set_config('zdm.row', '', true);
