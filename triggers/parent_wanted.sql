-- template: parent_wanted
-- version: 1
-- parameters: function, source, quote, wanted
-- Whether a row of the source has a parent by the old version's values. One for which that cannot be said is tried, and then fails by name.

CREATE OR REPLACE FUNCTION {function}(zdm_row {source}) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
BEGIN
  RETURN {wanted};
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN true;
END
{quote}
