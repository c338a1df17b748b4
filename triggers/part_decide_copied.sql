-- template: part_decide_copied
-- version: 1
-- parameters: name, f, fresh, refers, new, d
-- As part_decide_added, for a group of copies: nobody but the row that is referred to says what they are.

  {name}
  {f} := {fresh};
  IF {f} OR {refers} OR {new} THEN
    {d} := 1;
  END IF;
