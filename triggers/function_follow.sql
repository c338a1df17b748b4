-- template: function_follow
-- version: 1
-- parameters: function, path, quote, child, same, assign, moved, key, notes, buckets
-- A row changed in columns of which other rows have copies: these follow, those that are not filled yet too, so that whoever fills one
-- at this moment meets this statement. Above READ COMMITTED rows that came since the snapshot are not seen. The foreign key of zdm's
-- over the copies finds them, with 40001, but not those whose copies are NULL: that such a row came is noted, and so is that rows
-- got copies at all. A note that was made since the snapshot raises 40001; one that somebody is making is of another row, since
-- whoever refers to this one would hold it. The locks are let go of with the subtransaction. A key that changes takes the rows along
-- by the application's foreign key, or not at all.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = {path}
AS {quote}
BEGIN
  IF TG_OP = 'UPDATE' AND {moved} THEN
{key}
    RETURN NULL;
  END IF;
  UPDATE {child} AS zdm_c SET {assign} WHERE {same};
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    BEGIN
      PERFORM FROM {notes} AS zdm_t WHERE zdm_t.bucket = ANY ({buckets}) FOR SHARE SKIP LOCKED;
      RAISE no_data_found;
    EXCEPTION
      WHEN no_data_found THEN NULL;
    END;
  END IF;
  RETURN NULL;
END
{quote}
