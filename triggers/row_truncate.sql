-- template: row_truncate
-- version: 1
-- parameters: target, guard
-- All rows go, those as well that this transaction's snapshot does not see; where TRUNCATE is not possible, a snapshot that might
-- not see some is refused.

    PERFORM pg_catalog.set_config('zdm.row', {guard}, true);
    BEGIN
      TRUNCATE {target};
    EXCEPTION
      WHEN feature_not_supported OR object_in_use OR insufficient_privilege THEN
        IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
          RAISE serialization_failure USING MESSAGE = 'could not serialize access due to TRUNCATE of a table that is mirrored';
        END IF;
        DELETE FROM {target};
    END;
    PERFORM pg_catalog.set_config('zdm.row', '', true);
