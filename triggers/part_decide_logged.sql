-- template: part_decide_logged
-- version: 1
-- parameters: name, f, fresh, named, unsettled, new, refuse, d, old, was, own, beside
-- As part_decide_parent, for a group whose writes are only noted: who wrote last is known at once, and what follows from it is the reconciler's.
-- 5: only what else the natural key reads changed (whose parents they are), so that whoever wrote last still has.

  {name}
  {f} := {fresh};
  IF {f} AND {named} AND ({unsettled} OR {new}) THEN
{refuse}
    {d} := 2; {own}
  ELSIF {f} THEN
    {d} := 1;
  ELSIF {new} AND ({named} OR NOT {old}) THEN
    {d} := 2; {own}
  ELSIF {old} THEN
    {d} := 1;
  ELSIF {beside} AND {named} THEN
    {d} := 2; {own}
  ELSE
    IF {was} THEN {own} END IF;
    IF {beside} THEN {d} := 5; END IF;
  END IF;
