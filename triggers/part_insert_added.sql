-- template: part_insert_added
-- version: 1
-- parameters: name, given, failed, own, d
-- As part_insert_both, for a group that has no old side.

  {name}
  IF zdm_view OR ({given} AND NOT {failed}) THEN
    {own}
  ELSE
    {d} := 1;
  END IF;
