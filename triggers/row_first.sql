-- template: row_first
-- version: 2
-- parameters: target, match, claimed, mine, names
-- A row that is inserted while the other side's holds something else has met one that is not filled yet, or has another life there.

    IF zdm_first AND NOT zdm_mirrored AND EXISTS (SELECT FROM {target} AS zdm_t WHERE {match} AND {claimed}) THEN
      RAISE object_not_in_prerequisite_state USING
        MESSAGE = pg_catalog.format('the row %s is not filled yet: the old version has it already, and %s there would be overwritten',
          {mine}, {names}),
        HINT = 'Until migration is complete, read the old structure; then the row is there.';
    END IF;
