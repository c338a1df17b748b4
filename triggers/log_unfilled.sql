-- template: log_unfilled
-- version: 1
-- parameters: filled, target, match, disagree, changes, filter, key, mine, names
-- Columns that held nothing, of which the other side's row says something, are not filled yet: what is written was not computed from it, and
-- would replace it. A row that was inserted over there is only on its way here, and so is one of which the backfill has been to its end.

    IF COALESCE(pg_catalog.current_setting('zdm.row', true), '') OPERATOR(pg_catalog.=) ''
      AND NOT EXISTS (SELECT {filled})
      AND NOT EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.side OPERATOR(pg_catalog.=) 'old'
        AND zdm_c.event OPERATOR(pg_catalog.=) 'insert' AND zdm_c.key OPERATOR(pg_catalog.=) {key}) THEN
      BEGIN
        PERFORM FROM {target} AS zdm_t WHERE {match} AND {disagree};
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
        WHEN OTHERS THEN PERFORM;
      END;
      IF FOUND THEN
        RAISE object_not_in_prerequisite_state USING
          MESSAGE = pg_catalog.format('the row %s is not filled yet: the old version has another %s for it, which would be overwritten',
            {mine}, {names}),
          HINT = 'Until migration is complete, read the old structure and write it; then the row is there.';
      END IF;
    END IF;
    RETURN NULL;
