-- template: log_reference_failed
-- version: 2
-- parameters: source, own_key, unread, failing, record, changes, filter
-- What the new version wrote stays in its form alone. A row whose values no parent can be found by has none, and is marked; a trigger records why.

        IF zdm_own THEN
{record}
        ELSE
          BEGIN
            UPDATE {source} AS zdm_s SET {failing} WHERE {own_key} AND {unread};
            IF NOT FOUND THEN
              CONTINUE;
            END IF;
          EXCEPTION
            WHEN lock_not_available OR transaction_rollback THEN
              RETURN 'busy';
          END;
          UPDATE {changes} AS zdm_c SET failed = true WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key
            AND (zdm_ids IS NULL OR zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids));
          RETURN 'failed';
        END IF;
