-- template: row_trigger
-- version: 7
-- parameters: function, path, settings, quote, settle, written, along, declare, inserted, inserted_outside, updated, key_changed, unfilled, move, taken_over, updated_outside, left, lazy, truncate
-- What the triggers on one side of a row mapping call. The application's role need have no rights on the other side, hence
-- SECURITY DEFINER; nobody may call it. A changed key first takes the other row along, so that what only that side knows of it stays. The
-- guard says so meanwhile: neither must the row be written back as it was, nor be missed under the key that it leaves, which another row
-- may have by now. Where the same statement gave it that key, the other row comes with it. What a row must be to be mirrored is asked here,
-- not by WHEN: the server reads a trigger's condition anew in each statement, which takes longer than to call this.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_done pg_catalog.bool;
  zdm_set pg_catalog.text;
{declare}
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.<>) '' THEN
{written}
{along}
  END IF;
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
{inserted}
{inserted_outside}
    zdm_done := {settle}(NEW, {lazy}, true);
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
{updated}
{unfilled}
    IF {key_changed} THEN
{move}
      IF NOT {taken_over} THEN
        zdm_done := {settle}(OLD, false, false);
      END IF;
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
