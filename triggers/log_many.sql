-- template: log_many
-- version: 1
-- parameters: function, settings, quote, changes, here, group, group_before, all, key, key_before, element, element_before, moved, renamed, written, alone
-- What the triggers on the side of a logged mapping call that has many rows for one: it notes of which key a row was written, and which row.
-- Of another key it is noted twice, and whether that is all that changed: a foreign key may have done it. Nothing of the other side is read or
-- locked. What the reconciler writes is not noted: `zdm.row` names the key.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_seen pg_catalog.text;
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
    IF zdm_guard OPERATOR(pg_catalog.<>) ALL (ARRAY[{group}, {all}]) THEN
{alone}
      INSERT INTO {changes} (rollout, mapping, side, event, key, element, seen) VALUES ({here}, 'insert', {key}, {element}, zdm_seen);
    END IF;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
    IF zdm_guard OPERATOR(pg_catalog.=) {all} THEN
      RETURN NULL;
    END IF;
    IF {moved} THEN
      zdm_seen := CASE WHEN {written} THEN NULL ELSE 'moved' END;
      INSERT INTO {changes} (rollout, mapping, side, event, key, element, seen)
      VALUES ({here}, 'delete', {key_before}, {element_before}, zdm_seen), ({here}, 'insert', {key}, {element}, zdm_seen);
    ELSIF zdm_guard OPERATOR(pg_catalog.=) {group} THEN
      RETURN NULL;
    ELSIF {renamed} THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key, element)
      VALUES ({here}, 'delete', {key_before}, {element_before}), ({here}, 'insert', {key}, {element});
    ELSE
      INSERT INTO {changes} (rollout, mapping, side, event, key, element) VALUES ({here}, 'update', {key}, {element});
    END IF;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
    IF zdm_guard OPERATOR(pg_catalog.<>) ALL (ARRAY[{group_before}, {all}]) THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key, element) VALUES ({here}, 'delete', {key_before}, {element_before});
    END IF;
  ELSE
    INSERT INTO {changes} (rollout, mapping, side, event) VALUES ({here}, 'truncate');
  END IF;
  RETURN NULL;
END
{quote}
