-- template: part_paired
-- version: 1
-- parameters: new, changed, early, missing, refuse
-- The new key of a row that has one: it is not taken away, and stays what it is until foreign keys watch over it.

  IF OLD.{new} IS NOT NULL AND NEW.{new} IS NULL THEN
{missing}
  END IF;
  IF {early} AND OLD.{new} IS NOT NULL AND {changed} THEN
{refuse}
  END IF;
