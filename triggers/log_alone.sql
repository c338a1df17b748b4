-- template: log_alone
-- version: 1
-- parameters: new, new_key, message
-- More rows of the new side than the old one can hold.

      IF zdm_has_n AND (SELECT pg_catalog.count(*) FROM (SELECT FROM {new} AS zdm_s WHERE {new_key} LIMIT 2) AS zdm_s) OPERATOR(pg_catalog.>) 1 THEN
        RAISE cardinality_violation USING MESSAGE = {message};
      END IF;
