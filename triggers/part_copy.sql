-- template: part_copy
-- version: 1
-- parameters: when, keep, none, clear, wrote, values, targets, table, same, note, marker, stored, conflict, missing
-- Gives a row its copies of the columns of the row that it refers to, whatever the statement said, and locks that as its foreign key
-- will. Where the reference was just written, or nothing was found before, it waits for the lock; else it does not, since whoever is
-- changing the copied columns comes by this row, and would wait for it: the row is left to him. One that is not there (yet) is for
-- the end of the transaction.

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
        SELECT {values} INTO {targets} FROM {table} AS zdm_p WHERE {same} FOR KEY SHARE SKIP LOCKED;
        IF NOT FOUND THEN
{stored}
          zdm_wait := OLD.{marker} IS NULL;
        END IF;
      END IF;
    END IF;
{conflict}
    IF NOT zdm_wait AND {missing} THEN
      zdm_failed := true;
    END IF;
  END IF;
