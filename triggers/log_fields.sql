-- template: log_fields
-- version: 1
-- parameters: function, quote, source, emptied, parts, all
-- Which fields of a document are not the same in two versions of a row; of a row that was made, which hold anything. One that has no form
-- over there may be any.

CREATE OR REPLACE FUNCTION {function}(zdm_before {source}, zdm_after {source}, zdm_made pg_catalog.bool)
RETURNS pg_catalog.int4[] LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_found pg_catalog.int4[] := '{{}}';
BEGIN
  IF zdm_made THEN
{emptied}
  END IF;
{parts}
  RETURN zdm_found;
EXCEPTION
  WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
  WHEN OTHERS THEN RETURN {all};
END
{quote}
