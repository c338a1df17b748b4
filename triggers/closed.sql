-- template: closed
-- version: 2
-- parameters: function, quote, message, hint
-- Refuses what one version writes where nothing of it would be kept any more. A TRUNCATE of a table that this one refers to has to pass.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SET search_path = '' AS {quote}
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' AND EXISTS (
    SELECT FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_locks AS l ON l.relation OPERATOR(pg_catalog.=) c.confrelid
    WHERE c.conrelid OPERATOR(pg_catalog.=) TG_RELID AND c.contype OPERATOR(pg_catalog.=) 'f'
      AND c.confrelid OPERATOR(pg_catalog.<>) TG_RELID AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
      AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock' AND l.granted)
  THEN
    RETURN NULL;
  END IF;
  RAISE check_violation USING MESSAGE = {message}, SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
    HINT = {hint};
END
{quote}
