-- template: row_left
-- version: 1
-- parameters: source, match, move, settle
-- A row that an UPDATE takes to another partition is deleted in one and inserted into the other; it is found there by what names it
-- wherever it is, and is still the same row for the other side.

    SELECT zdm_s.* INTO zdm_moved FROM {source} AS zdm_s WHERE {match};
    IF FOUND THEN
{move}
      PERFORM {settle}(zdm_moved, false, false);
    END IF;
