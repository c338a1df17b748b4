-- template: part_decide_dropped
-- version: 1
-- parameters: name, was, old, named, d, own
-- As part_decide_both, for a group that has no new side.

  {name}
  IF {was} AND NOT {old} AND NOT {named} THEN
    {d} := 4; {own}
  END IF;
