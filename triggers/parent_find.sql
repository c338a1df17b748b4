-- template: parent_find
-- version: 2
-- parameters: function, arguments, quote, parent, same, columns, values, made, other, hidden
-- Finds the parent of a natural key, or makes it, and locks it against its end. Two that make it at once: the second waits, and finds
-- the first one's. One that a snapshot does not see is met by the INSERT, which raises 40001. A parent that is renamed or removed at
-- this moment is waited for, and then it is another one. What a trigger or the column's type makes of the natural key nobody would find
-- again: such a parent is not made.

CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS {parent} LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_parent {parent};
BEGIN
  FOR zdm_try IN 1 .. 100 LOOP
    SELECT zdm_p.* INTO zdm_parent FROM {parent} AS zdm_p WHERE {same} FOR KEY SHARE;
    IF FOUND THEN
      RETURN zdm_parent;
    END IF;
    INSERT INTO {parent} AS zdm_p ({columns}) VALUES ({values}) ON CONFLICT ({columns}) DO NOTHING
    RETURNING zdm_p.* INTO zdm_parent;
    IF FOUND THEN
      IF NOT {made} THEN
        RAISE triggered_data_change_violation USING MESSAGE = {other};
      END IF;
      RETURN zdm_parent;
    END IF;
  END LOOP;
  RAISE object_in_use USING MESSAGE = {hidden};
END
{quote}
