-- template: log_following
-- version: 1
-- parameters: function, settings, quote, one, mine, mine_before, empty, changed, moved, agree, message, hint, changes, here, key, key_before
-- The new version has written a row that follows from rows of the old one, which is noted. What it says of it itself has no old form, and is
-- refused, unless these rows say so. They are only read.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_row {one};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_said pg_catalog.bool := false;
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
    INSERT INTO {changes} (rollout, mapping, side, event) VALUES ({here}, 'truncate');
    RETURN NULL;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
    IF zdm_guard OPERATOR(pg_catalog.<>) {mine_before} THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key) VALUES ({here}, 'delete', {key_before});
    END IF;
    RETURN NULL;
  ELSIF zdm_guard OPERATOR(pg_catalog.=) {mine} THEN
    RETURN NULL;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
    zdm_said := NOT {empty};
  ELSE
    zdm_said := {changed};
    IF {moved} THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key) VALUES ({here}, 'delete', {key_before});
    END IF;
  END IF;
  IF zdm_said THEN
    zdm_row := NEW;
    IF NOT {agree} THEN
      RAISE check_violation USING MESSAGE = pg_catalog.format({message}, {mine}), HINT = {hint};
    END IF;
  END IF;
  INSERT INTO {changes} (rollout, mapping, side, event, key) VALUES ({here}, pg_catalog.lower(TG_OP), {key});
  RETURN NULL;
END
{quote}
