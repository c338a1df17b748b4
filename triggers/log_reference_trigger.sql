-- template: log_reference_trigger
-- version: 1
-- parameters: function, settings, quote, changes, source, parent, key, element
-- A row went, or all of them: what was noted of it concerns nobody any more. Or a parent got another name, which its rows will follow: an entry
-- without a key, until it is known which those are.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
    INSERT INTO {changes} (rollout, mapping, side, event, element) VALUES ({parent}, 'truncate', {element});
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
    INSERT INTO {changes} (rollout, mapping, side, event, key, parts) VALUES ({source}, 'delete', {key}, '{{}}');
  ELSE
    INSERT INTO {changes} (rollout, mapping, side, event) VALUES ({source}, 'truncate');
  END IF;
  RETURN NULL;
END
{quote}
