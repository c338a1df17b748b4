-- template: parent_late
-- version: 3
-- parameters: function, path, settings, quote, link, counted, links_of, message, settle
-- At the end of the transaction: the old version holds one value, so that a row of the source which has several links cannot go back.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_at constant {link} := NEW;
BEGIN
  IF (SELECT pg_catalog.count(*) FROM {counted} AS zdm_l WHERE {links_of}) OPERATOR(pg_catalog.>) 1 THEN
    RAISE cardinality_violation USING MESSAGE = {message},
      HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
  END IF;
  PERFORM {settle}(zdm_at, 'late');
  RETURN NULL;
END
{quote}
