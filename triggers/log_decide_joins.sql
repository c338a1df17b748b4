-- template: log_decide_joins
-- version: 1
-- parameters: emptied, lost_old
-- Whose row counts, where the new side's rows stand on their own, and the old side's fill some of their columns: one that went on the old
-- side leaves these empty, but for what the new side has written since; a row that went on the new side takes the old one along.

      IF zdm_last_o IS NULL AND zdm_last_n IS NULL THEN
        zdm_from := zdm_side;
      ELSIF zdm_last_n IS NULL THEN
        zdm_from := 'old';
      ELSIF zdm_last_o IS NULL THEN
        zdm_from := 'new';
      ELSIF zdm_has_o AND zdm_has_n THEN
        zdm_from := 'both';
      ELSIF zdm_has_n THEN
{emptied}
        zdm_from := 'new';
      ELSIF zdm_has_o AND zdm_gone_n OPERATOR(pg_catalog.>) COALESCE(zdm_made_o, 0) THEN
        IF zdm_last_o OPERATOR(pg_catalog.>) zdm_gone_n THEN
{lost_old}
        END IF;
        zdm_from := 'new';
      ELSE
        zdm_from := 'old';
      END IF;
