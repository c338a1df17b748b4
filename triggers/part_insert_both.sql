-- template: part_insert_both
-- version: 1
-- parameters: name, view, d, own, failed, given, complete, follows, supplied, leads, policy
-- Decides, for a group of both an old and a new side, who inserted the row.

  {name}
  IF {view} THEN
    {d} := 2; {own}
  ELSIF {failed} OR NOT {given} THEN
    {d} := 1;
  ELSE
    IF {complete} THEN
{follows}
    ELSE
      zdm_agree := false;
    END IF;
    IF zdm_agree THEN
      NULL;
    ELSIF NOT {supplied} THEN
      {d} := 2; {own}
    ELSE
{leads}
      IF zdm_agree THEN
        {own}
      ELSE
        {policy}
      END IF;
    END IF;
  END IF;
