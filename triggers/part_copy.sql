-- template: part_copy
-- version: 1
-- parameters: when, keep, none, clear, wrote, values, targets, table, same, note, notes, conflict, missing
-- Gives a row its copies of the columns of the row that it refers to, whatever the statement said. Where the reference was just written, or nothing was found before,
-- that row is locked as its foreign key will lock it; else nothing is, since whoever changes the copied columns has to come by
-- this row: a lock from here would deadlock with him. But he did not, before that was watched: a snapshot from before is too old. One that
-- is not there (yet) is for the end of the transaction.

  IF {when} THEN
{keep}
    IF {none} THEN
{clear}
    ELSE
      IF {wrote} THEN
        SELECT {values} INTO {targets} FROM {table} AS zdm_p WHERE {same} FOR KEY SHARE;
        IF NOT FOUND THEN
          zdm_failed := true;
        END IF;
{note}
      ELSE
        IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' AND (
          SELECT zdm_t.noted FROM {notes} AS zdm_t
          WHERE zdm_t.bucket OPERATOR(pg_catalog.=) -1 AND zdm_t.slot OPERATOR(pg_catalog.=) 1
        ) IS NULL THEN
          RAISE serialization_failure USING MESSAGE = 'could not serialize access: the snapshot is from before copies were kept in step';
        END IF;
        SELECT {values} INTO {targets} FROM {table} AS zdm_p WHERE {same};
        IF NOT FOUND THEN
          zdm_failed := true;
        END IF;
      END IF;
    END IF;
{conflict}
    IF {missing} THEN
      zdm_failed := true;
    END IF;
  END IF;
