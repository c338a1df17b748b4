-- template: part_both
-- version: 1
-- parameters: name, number, new, last, withdraw, old, follows, leads, policy
-- A statement that names the old side: whether the new side was written as well, and who then wins.

  {name}
  IF CAST(TG_ARGV[0] AS integer) OPERATOR(pg_catalog.=) {number} THEN
    IF NOT {new} THEN
      IF NOT {last} THEN {withdraw} END IF;
    ELSIF {old} THEN
{follows}
      IF NOT zdm_agree THEN
{leads}
      END IF;
      IF NOT zdm_agree THEN
        {policy}
      END IF;
    END IF;
  END IF;
