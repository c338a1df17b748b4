-- template: part_lookup_down
-- version: 1
-- parameters: when, old, new, view, refuse, itself, own
-- Derives the old reference: the old key of the row that the new one refers to, locked as its foreign key will lock it.

  IF {when} THEN
    IF NEW.{new} IS NULL THEN
      NEW.{old} := NULL;
    ELSIF {itself} THEN
      NEW.{old} := {own};
    ELSE
      SELECT zdm_l.zdm_old INTO NEW.{old} FROM {view} AS zdm_l
      WHERE zdm_l.zdm_new OPERATOR(pg_catalog.=) NEW.{new} FOR KEY SHARE;
      IF NOT FOUND THEN
{refuse}
      END IF;
    END IF;
  END IF;
