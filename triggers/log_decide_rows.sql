-- template: log_decide_rows
-- version: 2
-- parameters: may, unseen, lost_old, lost_new
-- Whose row counts, where each side's rows are made by the other's: a deletion wins over an update, whichever came first, as it would
-- if they had met on one table; a row that was inserted since stays.

      IF zdm_last_o IS NULL AND zdm_last_n IS NULL THEN
        zdm_from := zdm_side;
      ELSIF zdm_last_n IS NULL THEN
        zdm_from := 'old';
      ELSIF zdm_last_o IS NULL THEN
        zdm_from := 'new';
      ELSIF zdm_has_o AND NOT {may} THEN
        IF zdm_has_n AND zdm_last_n OPERATOR(pg_catalog.>) zdm_last_o THEN
{lost_new}
        END IF;
        zdm_from := 'old';
      ELSIF zdm_has_o AND zdm_has_n THEN
        zdm_from := 'both';
      ELSIF zdm_has_o AND zdm_gone_n OPERATOR(pg_catalog.>) COALESCE(zdm_made_o, 0) THEN
        IF {unseen} THEN
{lost_old}
        END IF;
        zdm_from := 'new';
      ELSIF zdm_has_n AND (zdm_gone_o IS NULL OR zdm_made_n OPERATOR(pg_catalog.>) zdm_gone_o) THEN
        zdm_from := 'new';
      ELSE
        IF zdm_has_n AND zdm_last_n OPERATOR(pg_catalog.>) zdm_gone_o THEN
{lost_new}
        END IF;
        zdm_from := 'old';
      END IF;
