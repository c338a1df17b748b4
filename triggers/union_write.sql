-- template: union_write
-- version: 1
-- parameters: target, columns, values, key, assign, theirs, stored, message, row
-- Writes the row of a table that has rows of several old ones, unless its key is another one's.

    INSERT INTO {target} AS zdm_t ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})
      ON CONFLICT ({key}) DO UPDATE SET {assign} WHERE {theirs}{stored};
    IF NOT FOUND THEN
      RAISE unique_violation USING MESSAGE = pg_catalog.format({message}, ROW({row})::pg_catalog.text);
    END IF;
