-- template: row_trigger
-- version: 4
-- parameters: function, settings, quote, settle, declare, inserted_outside, key_changed, unfilled, move, updated_outside, left, lazy, truncate
-- What the triggers on one side of a row mapping call. The application's role need have no rights on the other side, hence
-- SECURITY DEFINER; nobody may call it. A changed key first takes the other row along, so that what only that side knows of it stays;
-- the guard names the row meanwhile, lest the other side should write back what it held before.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_done pg_catalog.bool;
{declare}
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
{inserted_outside}
    zdm_done := {settle}(NEW, {lazy}, true);
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
{unfilled}
    IF {key_changed} THEN
{move}
      zdm_done := {settle}(OLD, false, false);
    ELSE
{updated_outside}
    END IF;
    zdm_done := {settle}(NEW, {lazy}, false);
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
{left}
    zdm_done := {settle}(OLD, false, false);
  ELSE
{truncate}
  END IF;
  RETURN NULL;
END
{quote}
