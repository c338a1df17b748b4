-- template: function_route
-- version: 1
-- parameters: function, quote, oid, written, called
-- A row that is inserted into a parent may be routed into a child by a trigger of the application. One that the new version wrote
-- has to arrive with what it wrote: a router that names the old columns would leave that behind, and nobody would know.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_under_way constant boolean := COALESCE(pg_catalog.current_setting('zdm.route', true), '') OPERATOR(pg_catalog.=) {oid};
  zdm_written boolean;
BEGIN
  IF TG_LEVEL OPERATOR(pg_catalog.=) 'STATEMENT' THEN
    IF zdm_under_way THEN
      PERFORM pg_catalog.set_config('zdm.route', '', true);
    END IF;
    RETURN NULL;
  END IF;
  zdm_written := {written};
  IF zdm_under_way AND NOT zdm_written THEN
    RAISE EXCEPTION USING ERRCODE = '55000',
      MESSAGE = pg_catalog.format('a row of the new version came to %I.%I without what the new version wrote', TG_TABLE_SCHEMA, TG_TABLE_NAME),
      DETAIL = pg_catalog.format('A trigger of %s, or of a child of it, passes rows on by a list of columns.', {called}::pg_catalog.text),
      HINT = 'Let its function pass whole rows: INSERT INTO … VALUES (NEW.*).';
  END IF;
  IF zdm_under_way OR zdm_written THEN
    PERFORM pg_catalog.set_config('zdm.route', CASE WHEN zdm_written AND TG_NARGS OPERATOR(pg_catalog.=) 0 THEN {oid} ELSE '' END, true);
  END IF;
  RETURN NEW;
END
{quote}
