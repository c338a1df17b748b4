-- template: part_insert_dropped
-- version: 1
-- parameters: name, missing, elsewhere, supplied, d, own
-- As part_insert_both, for a group that has no new side.

  {name}
  IF zdm_view OR {missing} OR ({elsewhere} AND NOT {supplied}) THEN
    {d} := 2; {own}
  END IF;
