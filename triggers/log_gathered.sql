-- template: log_gathered
-- version: 1
-- parameters: function, settings, quote, changes, here, keyed, keyed_before, key, key_before, moved
-- What the triggers on many rows call from which one row follows: it notes of which key any was written. Nothing of the other side is read or locked.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
    INSERT INTO {changes} (rollout, mapping, side, event) VALUES ({here}, 'truncate');
    RETURN NULL;
  END IF;
  IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
    IF {moved} AND {keyed_before} THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key) VALUES ({here}, 'delete', {key_before});
    END IF;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
    IF {keyed_before} THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key) VALUES ({here}, 'delete', {key_before});
    END IF;
    RETURN NULL;
  END IF;
  IF {keyed} THEN
    INSERT INTO {changes} (rollout, mapping, side, event, key) VALUES ({here}, pg_catalog.lower(TG_OP), {key});
  END IF;
  RETURN NULL;
END
{quote}
