-- template: log_last
-- version: 2
-- parameters: function, quote, changes, filter, work, keep
-- What one side has noted until now, while the caller's lock keeps its writers away; its table goes, so that nobody needs what the other one
-- noted. Too much of it, or a row that somebody holds, raises lock_not_available: the caller lets go of its lock, and tries again. What has
-- no form on the other side is kept as a conflict.

CREATE OR REPLACE FUNCTION {function}(zdm_side pg_catalog.text) RETURNS pg_catalog.void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS {quote}
DECLARE
  zdm_left pg_catalog.int8;
  zdm_before pg_catalog.int8;
BEGIN
  LOOP
    SELECT pg_catalog.count(*) INTO zdm_left FROM {changes} AS zdm_c
    WHERE {filter} AND NOT zdm_c.failed AND zdm_c.side OPERATOR(pg_catalog.=) zdm_side;
    EXIT WHEN zdm_left OPERATOR(pg_catalog.=) 0;
    IF zdm_left OPERATOR(pg_catalog.>) 200 OR zdm_left OPERATOR(pg_catalog.>=) zdm_before THEN
      RAISE lock_not_available USING MESSAGE = pg_catalog.format('%s changes still wait in zdm.row_changes', zdm_left);
    END IF;
    zdm_before := zdm_left;
    PERFORM {work}(0, 1000, 'infinity');
  END LOOP;
{keep}
  DELETE FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.failed;
END
{quote}
