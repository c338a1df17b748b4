-- template: log_decide_columns
-- version: 2
-- parameters: may, emptied, lost_new
-- Whose row counts, where the old side's rows stand on their own: a row that went on the old side goes; one that went on the new side
-- leaves its columns empty, but for what the old side has written since, and where the mapping's filter leaves the row out.

      IF zdm_last_o IS NULL AND zdm_last_n IS NULL THEN
        zdm_from := zdm_side;
      ELSIF zdm_last_n IS NULL THEN
        zdm_from := 'old';
      ELSIF zdm_last_o IS NULL THEN
        zdm_from := 'new';
      ELSIF zdm_has_o AND zdm_has_n THEN
        zdm_from := 'both';
      ELSIF zdm_has_o THEN
        IF {may} THEN
{emptied}
        END IF;
        zdm_from := 'old';
      ELSIF zdm_has_n AND zdm_made_n OPERATOR(pg_catalog.>) COALESCE(zdm_gone_o, 0) THEN
        zdm_from := 'new';
      ELSE
        IF zdm_has_n AND zdm_last_n OPERATOR(pg_catalog.>) zdm_gone_o THEN
{lost_new}
        END IF;
        zdm_from := 'old';
      END IF;
