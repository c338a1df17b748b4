-- template: element_append
-- version: 1
-- parameters: wanted, many, columns, values, one, own_key, join, kept, assign
-- What the new version has written becomes a row of the old one, while the row that says it is locked: so it is the last of its key, unless
-- another one is later by its own values. Then it is refused. What else follows from all rows is what they say now.

    IF {wanted} THEN
      PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
      INSERT INTO {many} ({columns}) VALUES ({values});
      SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key};
      IF FOUND THEN
        PERFORM FROM ({join}) AS zdm_j WHERE {kept};
        IF FOUND THEN
          UPDATE {one} AS zdm_s SET {assign} FROM ({join}) AS zdm_j WHERE {own_key};
          PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
          RETURN NULL;
        END IF;
      END IF;
    END IF;
