-- template: union_elsewhere
-- version: 1
-- parameters: mine, claims, key, row, table
-- A row that is inserted under a key that a row of another old table has, which is not filled yet or could not be.

    IF NOT pg_catalog.starts_with(zdm_guard, {mine}) AND {claims}({key}, false) THEN
      RAISE object_not_in_prerequisite_state USING
        MESSAGE = pg_catalog.format('the key %s is taken: the old version has a row of it in %s, which is not filled yet', {row}, {table}),
        HINT = 'Until migration is complete, read the old structure; then the row is there.';
    END IF;
