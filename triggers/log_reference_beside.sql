-- template: log_reference_beside
-- version: 1
-- parameters: moved, none, parent, referred, assign, take, given, back
-- What the row's values are by its parent. Where it was moved among those of another one since (what else the natural key reads), the parent of the
-- same value there is found or made.

        IF {moved} AND NOT {none} THEN
          SELECT zdm_p.* INTO zdm_parent FROM {parent} AS zdm_p WHERE {referred} FOR KEY SHARE;
{assign}
          zdm_parent := {take};
{given}
        ELSE
          zdm_next := {back};
        END IF;
