-- template: row_quick
-- version: 1
-- parameters: write, back, settled
-- A row that was there before has one over there, as a rule: it is looked for, compared and written in one statement. Where that finds
-- nothing to write, the row is not there, or agrees; what follows tells which.

    IF NOT zdm_first THEN
      zdm_set := pg_catalog.set_config('zdm.row', zdm_next, true);
{write}
      IF FOUND THEN
{back}
        zdm_set := pg_catalog.set_config('zdm.row', zdm_guard, true);
{settled}
        RETURN true;
      END IF;
      zdm_set := pg_catalog.set_config('zdm.row', zdm_guard, true);
    END IF;
