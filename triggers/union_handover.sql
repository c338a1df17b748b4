-- template: union_handover
-- version: 1
-- parameters: schema, name, claims, key
-- To one of the other old tables, if that has the key. Its functions come after, or go before those of this one.

      IF EXISTS (SELECT FROM pg_catalog.pg_proc AS zdm_p WHERE zdm_p.proname OPERATOR(pg_catalog.=) {name}
          AND zdm_p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace({schema})) THEN
        PERFORM {claims}({key}, true);
      END IF;
