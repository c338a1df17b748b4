-- template: log_expand
-- version: 1
-- parameters: function, quote, lock, changes, filter, old_gone, new_gone
-- A TRUNCATE becomes a deletion of each row that has none on the emptied side any more, at the place of the TRUNCATE: one that was
-- inserted since comes after it.

CREATE OR REPLACE FUNCTION {function}(zdm_id pg_catalog.int8)
RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS {quote}
DECLARE
  zdm_side pg_catalog.text;
BEGIN
  IF NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({lock} OPERATOR(pg_catalog.||) 'truncate', 0)) THEN
    RETURN 'busy';
  END IF;
  SELECT zdm_c.side INTO zdm_side FROM {changes} AS zdm_c
  WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) zdm_id AND zdm_c.event OPERATOR(pg_catalog.=) 'truncate';
  IF NOT FOUND THEN
    RETURN 'done';
  ELSIF zdm_side OPERATOR(pg_catalog.=) 'old' THEN
{old_gone}
  ELSE
{new_gone}
  END IF;
  DELETE FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) zdm_id;
  RETURN 'done';
END
{quote}
