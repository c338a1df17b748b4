-- template: element_agree
-- version: 2
-- parameters: function, one, quote, volatility, up, down
-- Whether a row and its elements say the same, by the mapping of either direction. Where that cannot be said, they do not.

CREATE OR REPLACE FUNCTION {function}(zdm_row {one}) RETURNS pg_catalog.bool LANGUAGE plpgsql {volatility} AS {quote}
BEGIN
  BEGIN
    IF {up} THEN
      RETURN true;
    END IF;
  EXCEPTION
    WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
    WHEN OTHERS THEN NULL;
  END;
  RETURN {down};
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN false;
END
{quote}
