-- template: record_parents
-- version: 1
-- parameters: quote, schema, link, parent, complete
-- Adds to each link that is recorded the parent that it refers to, as it is: what the link says is in that row, and may go with its table.

DO {quote}
BEGIN
  IF pg_catalog.to_regclass({link}) IS NOT NULL AND pg_catalog.to_regclass({parent}) IS NOT NULL
    AND pg_catalog.to_regclass({schema} || '.rows_without_old_form') IS NOT NULL THEN
    {complete};
  END IF;
END
{quote}
