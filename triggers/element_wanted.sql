-- template: element_wanted
-- version: 1
-- parameters: function, one, quote, split
-- Whether a row has elements by its own values. One for which that cannot be said is tried, and then fails by name.

CREATE OR REPLACE FUNCTION {function}(zdm_row {one}) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
BEGIN
  RETURN EXISTS (SELECT FROM ({split}) AS zdm_e);
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN true;
END
{quote}
