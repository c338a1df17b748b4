-- template: union_go
-- version: 1
-- parameters: target, match, met, handovers, go
-- Lets the row over there go, unless another old table has one of its key by now: then it becomes that one's, and keeps what only the new
-- version knows of it. The lock comes first: whoever makes the other one at this moment has found the key taken, and waits for
-- us at its end, or we wait for it, and then see what it has made.

    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
    IF FOUND OR (zdm_mirrored AND NOT EXISTS (SELECT FROM {target} AS zdm_t WHERE {met})) THEN
{handovers}
      PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
    END IF;
{go}
