-- template: record_prune
-- version: 1
-- parameters: quote, schema, table, forget
-- Forgets what is recorded of rows that are not there any more: a TRUNCATE cannot see what was recorded since its snapshot.

DO {quote}
BEGIN
  IF pg_catalog.to_regclass({table}) IS NOT NULL AND pg_catalog.to_regclass({schema} || '.rows_without_old_form') IS NOT NULL THEN
    {forget};
  END IF;
END
{quote}
