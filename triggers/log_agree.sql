-- template: log_agree
-- version: 1
-- parameters: function, one, quote, joined
-- Whether a row says what the many rows of its key say. Where that cannot be said, it does not. STABLE: a statement that looks at many keys sees
-- here what it sees in the log, or each that is written between the two would seem to be wrong.

CREATE OR REPLACE FUNCTION {function}(zdm_row {one}) RETURNS pg_catalog.bool LANGUAGE plpgsql STABLE AS {quote}
BEGIN
  RETURN {joined};
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN false;
END
{quote}
