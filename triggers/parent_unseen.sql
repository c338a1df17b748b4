-- template: parent_unseen
-- version: 1
-- parameters: parent, let_go, same, key
-- Above READ COMMITTED rows that took the parent since the snapshot are not seen, and since they only locked it, nothing raises. The
-- foreign key's own trigger looks at what is there now: so the parent is removed, after those that are seen have let go of it, in a
-- subtransaction that is undone. What meets a row that is not seen is 40001, or the key's own refusal.

    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
      DECLARE
        zdm_key pg_catalog.text;
      BEGIN
{let_go}
        DELETE FROM {parent} AS zdm_p WHERE {same};
        RAISE no_data_found;
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
        WHEN integrity_constraint_violation THEN
          GET STACKED DIAGNOSTICS zdm_key := CONSTRAINT_NAME;
          IF zdm_key OPERATOR(pg_catalog.=) {key} THEN
            RAISE serialization_failure USING MESSAGE = 'could not serialize access: a row that refers to it is not seen';
          END IF;
        WHEN OTHERS THEN NULL;
      END;
    END IF;
