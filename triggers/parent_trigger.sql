-- template: parent_trigger
-- version: 2
-- parameters: function, path, settings, quote, source, link, inserted, updated, deleted, truncated
-- What the triggers on one table of a mapping of many to one call: the source, the links, or the parents. The application's role
-- need have no rights on the other two, hence SECURITY DEFINER; nobody may call it.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_none {source};
  zdm_link {link};
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
