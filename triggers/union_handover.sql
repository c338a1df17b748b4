-- template: union_handover
-- version: 1
-- parameters: source, own_key, schema, function, target, match, assign, handover, settle
-- To one of the other old tables, if that has the key. Its functions come after, and go before those of others.

      DECLARE
        zdm_other {source};
      BEGIN
        IF EXISTS (SELECT FROM pg_catalog.pg_proc AS zdm_p WHERE zdm_p.proname OPERATOR(pg_catalog.=) {function}
            AND zdm_p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace({schema})) THEN
          SELECT zdm_s.* INTO zdm_other FROM {source} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
          IF FOUND THEN
            PERFORM pg_catalog.set_config('zdm.row', {handover}, true);
            UPDATE {target} AS zdm_t SET {assign} WHERE {match};
            PERFORM pg_catalog.set_config('zdm.row', '', true);
            PERFORM {settle}(zdm_other, false, false);
          END IF;
        END IF;
      END;
