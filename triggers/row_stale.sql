-- template: row_stale
-- version: 2
-- parameters: function, quote, source, target, match, agree
-- Whether the columns of the other side's row do not hold what this row says; true where that cannot be said, or there is no row.
-- STABLE: a statement that looks at many rows sees here what it sees itself.

CREATE OR REPLACE FUNCTION {function}(zdm_row {source}) RETURNS pg_catalog.bool LANGUAGE plpgsql STABLE AS {quote}
BEGIN
  RETURN NOT EXISTS (SELECT FROM {target} AS zdm_t WHERE {match} AND {agree});
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN true;
END
{quote}
