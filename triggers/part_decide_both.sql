-- template: part_decide_both
-- version: 1
-- parameters: name, f, fresh, named, unsettled, new, refuse, d, old, was, own
-- Decides, for a group of both an old and a new side, in which direction an UPDATE is carried.

  {name}
  {f} := {fresh};
  IF {f} AND {named} AND ({unsettled} OR {new}) THEN
{refuse}
    {d} := 2;
  ELSIF {f} THEN
    {d} := 1;
  ELSIF {new} AND ({named} OR NOT {old}) THEN
    {d} := 2;
  ELSIF {old} THEN
    {d} := 1;
  ELSIF {was} AND {named} THEN
    {d} := 1;
  ELSIF {was} THEN
    {d} := 4; {own}
  ELSIF {named} THEN
    {d} := 2;
  ELSE
    {d} := 3;
  END IF;
