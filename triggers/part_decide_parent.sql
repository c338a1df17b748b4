-- template: part_decide_parent
-- version: 1
-- parameters: name, f, fresh, named, unsettled, new, refuse, d, old, was, own, beside, leads
-- Decides, for a group whose new side refers to a row of a shared table, in which direction an UPDATE is carried. An old side that
-- changed to what the parent says already is the parent's own change, carried to its rows; to derive from it could find another parent
-- under a lossy mapping. Where only what else the natural key reads changed (whose parents they are), it is another parent.

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
{leads}
    IF zdm_agree THEN {own} ELSE {d} := 1; END IF;
  ELSIF {beside} THEN
    {d} := CASE WHEN {named} THEN 2 ELSE 1 END;
  ELSIF {was} THEN
    {own}
  END IF;
