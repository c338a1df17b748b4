-- template: row_truncate
-- version: 2
-- parameters: target, named, guard
-- All rows go, those as well that this transaction's snapshot does not see; where TRUNCATE is not possible, a snapshot that might
-- not see some is refused. While a TRUNCATE that a foreign key has brought here as well (CASCADE) is not over, another one is not
-- possible: under its lock an empty file tells that nothing is left.

    PERFORM pg_catalog.set_config('zdm.row', {guard}, true);
    BEGIN
      TRUNCATE {target};
    EXCEPTION
      WHEN feature_not_supported OR object_in_use OR insufficient_privilege THEN
        IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed' THEN
          DELETE FROM {target};
        ELSE
          LOCK TABLE {target} IN ACCESS EXCLUSIVE MODE;
          IF pg_catalog.pg_relation_size({named}) OPERATOR(pg_catalog.>) 0 OR EXISTS (SELECT FROM pg_catalog.pg_partition_tree({named}) AS zdm_p
            WHERE pg_catalog.pg_relation_size(zdm_p.relid) OPERATOR(pg_catalog.>) 0) THEN
            RAISE serialization_failure USING MESSAGE = 'could not serialize access due to TRUNCATE of a table that is mirrored';
          END IF;
        END IF;
    END;
    PERFORM pg_catalog.set_config('zdm.row', '', true);
