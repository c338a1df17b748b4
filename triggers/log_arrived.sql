-- template: log_arrived
-- version: 1
-- parameters: same, mine, all, changes, here, key, updated
-- It has been in another partition until now: an update, of what is not as it was. The deletion that is noted before it does not count any more.
-- Of what the reconciler mirrors it is told.

    IF zdm_left IS NOT NULL THEN
      PERFORM pg_catalog.set_config('zdm.left', '', true);
      IF {same} THEN
        IF zdm_guard OPERATOR(pg_catalog.=) '' OR zdm_guard OPERATOR(pg_catalog.<>) ALL (ARRAY[{mine}, {mine} OPERATOR(pg_catalog.||) '!', {all}]) THEN
          INSERT INTO {changes} (rollout, mapping, side, event, key, parts) VALUES ({here}, 'update', {key}, {updated});
        ELSE
          PERFORM pg_catalog.set_config('zdm.moved', 'on', true);
        END IF;
        RETURN NULL;
      END IF;
    END IF;
