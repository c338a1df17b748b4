-- template: log_unseen
-- version: 1
-- parameters: filled, many, match, own_key, number, mine, not_filled
-- Until the backfill has been to its end, whoever adds the first row of a key may not know of those that are not filled yet: the reconciler
-- adds them. Whether a row that is not there was never filled, or was deleted by this transaction, cannot be told.

      IF NOT EXISTS (SELECT {filled}) AND NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}
        AND zdm_m.xmin OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT zdm_s.xmin FROM {many} AS zdm_s WHERE {own_key}))) THEN
        IF pg_catalog.current_setting('zdm.gone', true) IS NOT DISTINCT FROM {number} THEN
          RAISE object_not_in_prerequisite_state USING MESSAGE = pg_catalog.format({not_filled}, {mine}),
            HINT = 'Until migration is complete, do not delete elements and insert others in one transaction.';
        END IF;
        zdm_seen := 'alone';
      END IF;
