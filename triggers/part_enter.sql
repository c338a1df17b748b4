-- template: part_enter
-- version: 1
-- parameters:
-- Expressions name what is in pg_catalog without its schema. A search_path that puts another schema before it could
-- give them another meaning, so such a path (and only such a one) is set aside while they are evaluated.

  IF pg_catalog.strpos(zdm_path, 'pg_catalog') OPERATOR(pg_catalog.>) 1 THEN
    PERFORM pg_catalog.set_config('search_path', '', true);
  ELSE
    zdm_path := NULL;
  END IF;
