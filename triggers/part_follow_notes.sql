-- template: part_follow_notes
-- version: 1
-- parameters: notes, bucket
-- Part of function_follow, above READ COMMITTED: a note that was made since the snapshot raises 40001. One that somebody is making is
-- of another row, since whoever refers to this one would hold it. The locks are let go of with the subtransaction.

      BEGIN
        PERFORM FROM {notes} AS zdm_t WHERE zdm_t.bucket = {bucket} FOR SHARE SKIP LOCKED;
        RAISE no_data_found;
      EXCEPTION
        WHEN no_data_found THEN NULL;
      END;
