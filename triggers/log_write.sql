-- template: log_write
-- version: 1
-- parameters: target, match, assigned, columns, values
-- Writes the other side's row, wherever it is, or makes it.

    UPDATE {target} AS zdm_t SET {assigned} WHERE {match};
    IF NOT FOUND THEN
      INSERT INTO {target} AS zdm_t ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values});
    END IF;
