-- template: part_decide_added
-- version: 1
-- parameters: name, f, fresh, named, refuse, new, was, unsettled, own, d
-- As part_decide_both, for a group that has no old side.

  {name}
  {f} := {fresh};
  IF {f} AND {named} THEN
{refuse}
  END IF;
  IF {new} OR {was} OR ({named} AND ({unsettled} OR NOT {f})) THEN
    {own}
  ELSIF {f} THEN
    {d} := 1;
  ELSE
    {d} := 3;
  END IF;
