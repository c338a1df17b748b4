-- template: log_differ
-- version: 1
-- parameters: function, quote, one, said_before, said_after
-- Whether two versions of a row say different elements; they may where that cannot be said. Without one before, whether it says any.

CREATE OR REPLACE FUNCTION {function}(zdm_before {one}, zdm_after {one}, zdm_made pg_catalog.bool) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
BEGIN
  IF zdm_made THEN
    RETURN {said_after} IS NOT NULL;
  END IF;
  RETURN {said_before} IS DISTINCT FROM {said_after};
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN true;
END
{quote}
