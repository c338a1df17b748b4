-- template: part_down
-- version: 1
-- parameters: when, assign
-- Derives a group's old side for what the new side wrote. If down raises, so does the write (rule 8).

  IF {when} THEN
{assign}
  END IF;
