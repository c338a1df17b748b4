-- template: part_copy
-- version: 1
-- parameters: when, keep, none, clear, wrote, values, targets, table, same, note, conflict, missing
-- Gives a row its copies of the columns of the row that it refers to, whatever the statement said. Where the reference was just written
-- that row is locked as its foreign key will lock it; else nothing is, since whoever changes the copied columns has to come by
-- this row: a lock from here would deadlock with him. One that is not there (yet) is for the end of the transaction.

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
