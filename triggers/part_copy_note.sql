-- template: part_copy_note
-- version: 2
-- parameters: nothing, note
-- Part of part_copy: a row got NULL for a copy, which no foreign key looks at. That rows of this key came is noted, so that a change of
-- the row that they refer to meets the note if it does not see them.

      IF {nothing} AND NOT zdm_failed THEN
{note}
      END IF;
