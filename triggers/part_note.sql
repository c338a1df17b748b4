-- template: part_note
-- version: 1
-- parameters: when, rollout, number, wrote, d, event, key, was
-- Notes that a row was written, and by whom: the other side of the group follows once that is reconciled. Nothing of any other row is read or
-- locked. What zdm itself settles is derived at once.

  IF {when} THEN
    INSERT INTO zdm.row_changes (rollout, mapping, side, event, key, was, parts)
    VALUES ({rollout}, {number}, CASE WHEN {wrote} THEN 'new' ELSE 'old' END, {event}, {key}, {was},
      CASE {d} WHEN 0 THEN '{{}}'::pg_catalog.int4[] WHEN 5 THEN '{{2}}' ELSE '{{1}}' END);
  END IF;
