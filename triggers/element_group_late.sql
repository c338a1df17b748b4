-- template: element_group_late
-- version: 2
-- parameters: function, path, settings, quote, one, many, kept, was_match, was_key, was_guard, now_key, now_guard, agree, message
-- The new version has removed rows, or given one another key. At the end of the transaction none may be gone of which there are rows of the
-- old version, and none there that they do not say: both may have gone together, by a foreign key to a third table.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_row {one};
  zdm_wrong pg_catalog.text;
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
    IF EXISTS (SELECT FROM {many} AS zdm_m WHERE {kept}) THEN
      zdm_wrong := '*';
    END IF;
  ELSIF EXISTS (SELECT FROM {many} AS zdm_m WHERE {was_match}) AND NOT EXISTS (SELECT FROM {one} AS zdm_s WHERE {was_key}) THEN
    zdm_wrong := {was_guard};
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
    SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {now_key};
    IF FOUND AND NOT {agree} THEN
      zdm_wrong := {now_guard};
    END IF;
  END IF;
  IF zdm_wrong IS NOT NULL THEN
    RAISE check_violation USING MESSAGE = pg_catalog.format({message}, zdm_wrong),
      HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
  END IF;
  RETURN NULL;
END
{quote}
