-- template: parent_same
-- version: 1
-- parameters: function, source, quote, before, after, same
-- Whether an update of a row of the source leaves its parent alone by the old version's values. Where that cannot be said, it does not.

CREATE OR REPLACE FUNCTION {function}(zdm_was {source}, zdm_row {source}) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
BEGIN
  RETURN CASE WHEN {before} AND {after} THEN {same} ELSE NOT {before} AND NOT {after} END;
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN false;
END
{quote}
