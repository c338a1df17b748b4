-- template: log_trigger
-- version: 4
-- parameters: function, settings, quote, changes, here, mine, mine_before, all, key, key_before, changed, key_changed, inserted, updated, declare, arrived, left, went, came_here, went_away
-- What the triggers on one side of a logged row mapping call: it notes which row was written, and of an update which parts. Nothing of
-- the other side is read or locked. What the reconciler itself mirrors is not noted: `zdm.row` names the row.
-- Whether an update says anything is asked here, not by WHEN: the server reads a trigger's condition anew in each statement.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
{declare}
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
{arrived}
    IF zdm_guard OPERATOR(pg_catalog.=) '' OR zdm_guard OPERATOR(pg_catalog.<>) ALL (ARRAY[{mine}, {mine} OPERATOR(pg_catalog.||) '!', {all}]) THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key, parts) VALUES ({here}, 'insert', {key}, {inserted});
    END IF;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
    IF {changed}
      AND (zdm_guard OPERATOR(pg_catalog.=) '' OR zdm_guard OPERATOR(pg_catalog.<>) ALL (ARRAY[{mine}, {mine} OPERATOR(pg_catalog.||) '!', {all}])) THEN
      IF {came_here} THEN
        INSERT INTO {changes} (rollout, mapping, side, event, key, parts) VALUES ({here}, 'insert', {key}, {inserted});
      ELSIF {went_away} THEN
        INSERT INTO {changes} (rollout, mapping, side, event, key, parts) VALUES ({here}, 'delete', {key_before}, {went});
      ELSIF {key_changed} THEN
        INSERT INTO {changes} (rollout, mapping, side, event, key) VALUES ({here}, 'delete', {key_before});
        INSERT INTO {changes} (rollout, mapping, side, event, key, was, parts)
        VALUES ({here}, 'key', {key}, {key_before}, {updated});
      ELSE
        INSERT INTO {changes} (rollout, mapping, side, event, key, parts) VALUES ({here}, 'update', {key}, {updated});
      END IF;
    END IF;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
{left}
    IF zdm_guard OPERATOR(pg_catalog.=) '' OR zdm_guard OPERATOR(pg_catalog.<>) ALL (ARRAY[{mine_before}, {mine_before} OPERATOR(pg_catalog.||) '!', {all}]) THEN
      INSERT INTO {changes} (rollout, mapping, side, event, key, parts) VALUES ({here}, 'delete', {key_before}, {went});
    END IF;
  ELSE
    INSERT INTO {changes} (rollout, mapping, side, event) VALUES ({here}, 'truncate');
  END IF;
  RETURN NULL;
END
{quote}
