-- template: function_late
-- version: 2
-- parameters: function, quote, only, table, marker, same, path
-- At the end of the transaction: a row whose reference was not found when it was written is tried again, since its foreign key may
-- be deferred, or the statement may have written the row before the one that it refers to.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}
AS {quote}
BEGIN
  UPDATE {only}{table} AS zdm_t SET {marker} = zdm_t.{marker} WHERE {same} AND (zdm_t.{marker} & 2) <> 0;
  RETURN NULL;
END
{quote}
