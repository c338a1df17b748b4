-- template: row_unfilled
-- version: 1
-- parameters: number, holds, written, target, match, disagree, row, names
-- A row that holds nothing yet while the other side's row says something is not filled: what is written was not computed from what
-- the old version holds, and would replace it. The row's lock is held, so that the other side's trigger waits for this one.

    IF NOT pg_catalog.starts_with(COALESCE(pg_catalog.current_setting('zdm.row', true), ''), {number}) AND {written} AND NOT {holds} THEN
      BEGIN
        PERFORM FROM {target} AS zdm_t WHERE {match} AND {disagree};
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
        WHEN OTHERS THEN PERFORM;
      END;
      IF FOUND THEN
        RAISE object_not_in_prerequisite_state USING
          MESSAGE = pg_catalog.format('the row %s is not filled yet: the old version has another %s for it, which would be overwritten',
            {row}, {names}),
          HINT = 'Until migration is complete, read the old structure and write it; then the row is there.';
      END IF;
    END IF;
