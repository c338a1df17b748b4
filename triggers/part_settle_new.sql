-- template: part_settle_new
-- version: 1
-- parameters: d, follows, own
-- What the new side wrote may follow from the old one already; then nothing is carried.

  IF {d} OPERATOR(pg_catalog.=) 2 THEN
{follows}
    IF zdm_agree THEN {d} := 3; ELSE {own} END IF;
  END IF;
