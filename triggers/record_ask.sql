-- template: record_ask
-- version: 1
-- parameters: asked, note, records, columns, values
-- A row of this side came that makes none over there, and that could be met by its key: it is noted, and whoever records one of its key at
-- this moment is waited for. What is recorded since the snapshot raises a serialization error. Both sides ask so after they have said
-- that they are there, so that at least one of two that come at the same moment meets the other.

    IF {asked} THEN
{note}
      BEGIN
        INSERT INTO {records} ({columns}) VALUES ({values}) ON CONFLICT (rollout, mapping, key) DO NOTHING;
        IF FOUND THEN
          RAISE no_data_found;
        END IF;
      EXCEPTION
        WHEN no_data_found THEN NULL;
      END;
    END IF;
