-- template: reference_back
-- version: 1
-- parameters: function, quote, source, parent, none, clear, referred, no_parent, belongs, stranger, assign
-- A row with the old version's values as its reference says. The parent is locked: one that is renamed at this moment is waited for,
-- and whoever renames it afterwards finds this row.

CREATE OR REPLACE FUNCTION {function}(zdm_row {source}) RETURNS {source} LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_parent {parent};
BEGIN
  IF {none} THEN
{clear}
    RETURN zdm_row;
  END IF;
  SELECT zdm_p.* INTO zdm_parent FROM {parent} AS zdm_p WHERE {referred} FOR KEY SHARE;
  IF NOT FOUND THEN
    RAISE foreign_key_violation USING MESSAGE = {no_parent};
  ELSIF NOT {belongs} THEN
    RAISE integrity_constraint_violation USING MESSAGE = {stranger},
      HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
  END IF;
{assign}
  RETURN zdm_row;
END
{quote}
