-- template: element_trigger
-- version: 2
-- parameters: function, path, settings, quote, inserted, updated, deleted, truncated
-- What the triggers on one side of a mapping of one row to many call. The application's role need have no rights on the other side,
-- hence SECURITY DEFINER; nobody may call it.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
{inserted}
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
{updated}
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
{deleted}
  ELSE
{truncated}
  END IF;
  RETURN NULL;
END
{quote}
