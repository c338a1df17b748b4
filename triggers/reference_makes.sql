-- template: reference_makes
-- version: 1
-- parameters: quote, wanted, parent, names, values
-- Makes the parents that rows of a chunk want one by one, where one of them raised: rows of the others need not go through the triggers.

DO {quote}
DECLARE
  zdm_wanted pg_catalog.record;
BEGIN
  FOR zdm_wanted IN {wanted} LOOP
    BEGIN
      INSERT INTO {parent} ({names}) VALUES ({values}) ON CONFLICT ({names}) DO NOTHING;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR lock_not_available OR operator_intervention OR system_error THEN RAISE;
      WHEN OTHERS THEN NULL;
    END;
  END LOOP;
END
{quote}
