-- template: row_keep
-- version: 1
-- parameters: target, match, kept, values, raised
-- Before the other side's row is written: those of its columns that agree with this side's keep what they hold.

    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
    IF FOUND THEN
      BEGIN
        SELECT {kept} INTO {values} FROM {target} AS zdm_t WHERE {match};
      EXCEPTION
{raised}        WHEN OTHERS THEN NULL;
      END;
    END IF;
