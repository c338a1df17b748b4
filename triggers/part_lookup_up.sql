-- template: part_lookup_up
-- version: 1
-- parameters: when, old, new, wrote, view, itself, own
-- Derives the new reference: the new key of the row that the old one refers to. Where the old reference was just written, that row
-- is locked as its foreign key will lock it; else nothing is, since whoever removes the row has to come by this one. One that
-- is not filled yet leaves this row unsettled; one that is not there (yet) is for the end of the transaction. A row
-- that refers to itself has its own.

  IF {when} THEN
    NEW.{new} := NULL;
    IF {itself} THEN
      NEW.{new} := {own};
    ELSIF NEW.{old} IS NOT NULL THEN
      IF {wrote} THEN
        SELECT zdm_l.zdm_new, zdm_l.zdm_filled INTO NEW.{new}, zdm_filled FROM {view} AS zdm_l
        WHERE zdm_l.zdm_old OPERATOR(pg_catalog.=) NEW.{old} FOR KEY SHARE;
      ELSE
        SELECT zdm_l.zdm_new, zdm_l.zdm_filled INTO NEW.{new}, zdm_filled FROM {view} AS zdm_l
        WHERE zdm_l.zdm_old OPERATOR(pg_catalog.=) NEW.{old};
      END IF;
      IF NEW.{new} IS NULL AND COALESCE(zdm_filled, true) THEN
        zdm_failed := true;
      ELSIF NEW.{new} IS NULL THEN
        zdm_wait := true;
      END IF;
    END IF;
  END IF;
