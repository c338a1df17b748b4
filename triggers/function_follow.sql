-- template: function_follow
-- version: 1
-- parameters: function, quote, child, same, assign, moved, key, unseen, noted
-- A row changed in columns of which other rows have copies: these follow, those that are not filled yet too, so that whoever fills one
-- at this moment meets this statement. Above READ COMMITTED rows that came since the snapshot are not seen; the foreign key of zdm's
-- over the copies finds them, with 40001, but not those whose copies are NULL, which are noted. A key that changes takes the rows along by the
-- application's foreign key, or not at all.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS {quote}
BEGIN
  IF TG_OP = 'UPDATE' THEN
    IF {moved} THEN
{key}
      RETURN NULL;
    END IF;
    IF {unseen} AND current_setting('transaction_isolation') <> 'read committed' THEN
{noted}
    END IF;
  END IF;
  UPDATE {child} AS zdm_c SET {assign} WHERE {same};
  RETURN NULL;
END
{quote}
