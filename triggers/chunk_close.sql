-- template: chunk_close
-- version: 1
-- parameters: quote, numbers, source, alias, within, settled, held, moved
-- The last look of a chunk that has copied rows without locking them. Whoever deletes one from here on finds this chunk's lock, and its copy
-- after it.

DO {quote}
DECLARE
  zdm_settled pg_catalog.int8;
  zdm_held pg_catalog.int8;
BEGIN
  SELECT {numbers} INTO zdm_settled, zdm_held FROM ONLY {source} AS {alias} WHERE {within};
  IF zdm_settled OPERATOR(pg_catalog.<>) {settled} OR zdm_held OPERATOR(pg_catalog.<>) {held} THEN
    RAISE EXCEPTION USING ERRCODE = {moved}, MESSAGE = 'rows went while they were copied';
  END IF;
END
{quote}
