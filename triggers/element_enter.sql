-- template: element_enter
-- version: 2
-- parameters: function, path, settings, quote, one, many, guard, own_key, match, filled, wanted, settle_many, number, not_filled, no_form
-- Before an element is written: its row is locked, as everybody locks the row first; and where it is not filled yet, it is filled now,
-- so that what the new application writes is added to what the old one holds.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}{settings} AS {quote}
DECLARE
  zdm_row {one};
  zdm_mine constant pg_catalog.text := {guard};
BEGIN
  IF pg_catalog.current_setting('zdm.row', true) IS NOT DISTINCT FROM zdm_mine THEN
    RETURN NEW;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  IF FOUND AND NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) AND NOT EXISTS (SELECT {filled}) AND {wanted}(zdm_row) THEN
    IF pg_catalog.current_setting('zdm.gone', true) IS NOT DISTINCT FROM {number} THEN
      -- Whether its elements are not there yet, or were deleted by the statement that inserts this one, cannot be told.
      RAISE object_not_in_prerequisite_state USING MESSAGE = pg_catalog.format({not_filled}, zdm_mine),
        HINT = 'Until migration is complete, do not delete elements and insert others in one transaction.';
    ELSIF NOT {settle_many}(zdm_row, zdm_row, 'fill') THEN
      RAISE object_not_in_prerequisite_state USING MESSAGE = pg_catalog.format({no_form}, zdm_mine),
        HINT = 'zdm.sync_failures says why. Correct it there first; it would be overwritten.';
    END IF;
  END IF;
  RETURN NEW;
END
{quote}
