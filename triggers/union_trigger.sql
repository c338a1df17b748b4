-- template: union_trigger
-- version: 3
-- parameters: function, path, settings, quote, settle, along, taken_over, handover, elsewhere, theirs_before, theirs_now, key_changed, move, truncate
-- What the triggers on a table call that has the rows of several old ones, for one of these. A row that ceases to be this one's goes
-- there, one that comes to be is made; its other half is the business of the other mapping's trigger. One that is handed over was written by the
-- old version, which mirrors it itself.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_was pg_catalog.bool;
  zdm_is pg_catalog.bool;
BEGIN
{along}
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
{elsewhere}
    PERFORM {settle}(NEW, false, true);
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
    IF zdm_guard OPERATOR(pg_catalog.=) {handover} THEN
      RETURN NULL;
    END IF;
    zdm_was := COALESCE({theirs_before}, false);
    zdm_is := COALESCE({theirs_now}, false);
    IF zdm_was AND zdm_is THEN
      IF {key_changed} THEN
{move}
        IF NOT {taken_over} THEN
          PERFORM {settle}(OLD, false, false);
        END IF;
      END IF;
      PERFORM {settle}(NEW, false, false);
    ELSIF zdm_was THEN
      PERFORM {settle}(OLD, false, false);
    ELSIF zdm_is THEN
      PERFORM {settle}(NEW, false, true);
    END IF;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
    PERFORM {settle}(OLD, false, false);
  ELSE
{truncate}
  END IF;
  RETURN NULL;
END
{quote}
