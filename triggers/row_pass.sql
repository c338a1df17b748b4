-- template: row_pass
-- version: 1
-- parameters: target, match, filled, closing
-- While the backfill runs, a chunk of it may have copied the row and not committed yet. From its last look at the row to its commit it keeps a
-- shared lock, which is passed through here, and let go at once: so either it has seen that the row goes, or its copy is seen now.

      IF NOT EXISTS (SELECT {filled}) THEN
        BEGIN
          PERFORM pg_catalog.pg_advisory_xact_lock({closing});
          RAISE no_data_found;
        EXCEPTION
          WHEN no_data_found THEN NULL;
        END;
      END IF;
      DELETE FROM {target} AS zdm_t WHERE {match};
