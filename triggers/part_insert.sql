-- template: part_insert
-- version: 1
-- parameters: marker, failed, whole, groups, decide
-- Decides for all groups of an inserted row. One that comes with a settled marker was moved here from another partition, or is
-- copied or restored. If both sides agree as the marker says, they stay; to decide anew who wrote them would be to guess.

  zdm_agree := COALESCE(NEW.{marker} OPERATOR(pg_catalog.>=) 0, false) AND NOT {failed};
  IF zdm_agree THEN
{whole}
  END IF;
  IF zdm_agree THEN
    zdm_bits := zdm_was OPERATOR(pg_catalog.&) {groups};
  ELSE
{decide}
  END IF;
