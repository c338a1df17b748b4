-- template: log_reference
-- version: 1
-- parameters: source, own_key, settled, held, beside, differ, assigned_old, assigned_new, settled_old, settled_new, lost_old, lost_new, take, given
-- What the row refers to is found or made by its values, or its values are what that says. A row that agrees is left alone. Where a trigger of the
-- application makes something else of a value that came back, that is what counts.

      IF zdm_has AND zdm_own THEN
        zdm_next := zdm_row;
{beside}
        IF {differ} THEN
          IF zdm_old OPERATOR(pg_catalog.>) 0 AND zdm_new OPERATOR(pg_catalog.>) 0 THEN
{lost_old}
          END IF;
          UPDATE {source} AS zdm_s SET {assigned_old}, {settled_new} WHERE {own_key} RETURNING zdm_s.* INTO zdm_row;
          IF FOUND AND {differ} THEN
            zdm_own := false;
          END IF;
        END IF;
      END IF;
      IF zdm_has AND NOT zdm_own AND NOT ({settled} AND {held}) THEN
        zdm_next := zdm_row;
        zdm_parent := {take};
{given}
        IF zdm_old OPERATOR(pg_catalog.>) 0 AND zdm_new OPERATOR(pg_catalog.>) 0 THEN
{lost_new}
        END IF;
        UPDATE {source} AS zdm_s SET {assigned_new}, {settled_old} WHERE {own_key};
      END IF;
