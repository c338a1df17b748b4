-- template: chunk_close
-- version: 2
-- parameters: quote, same, source, alias, rows, moved
-- The last look of a chunk that has copied rows without locking them. Whoever deletes one from here on finds this chunk's lock, and its copy
-- after it.

DO {quote}
BEGIN
  IF NOT (SELECT {same} FROM ONLY {source} AS {alias} WHERE {rows}) THEN
    RAISE EXCEPTION USING ERRCODE = {moved}, MESSAGE = 'rows went while they were copied';
  END IF;
END
{quote}
