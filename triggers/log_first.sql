-- template: log_first
-- version: 2
-- parameters: function, settings, quote, source, target, match, claimed, mine, names, changes, filter, key, updated
-- A row that is inserted while the other side's holds something else has met one that is not filled yet. That is only looked at, and
-- not where the row went before and the other side does not know it yet.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_at {source};
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
{updated}
  END IF;
  zdm_at := NEW;
  IF COALESCE(pg_catalog.current_setting('zdm.row', true), '') OPERATOR(pg_catalog.=) ''
    AND EXISTS (SELECT FROM {target} AS zdm_t WHERE {match} AND {claimed})
    AND NOT EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.side OPERATOR(pg_catalog.=) 'new'
      AND zdm_c.event OPERATOR(pg_catalog.=) 'delete' AND zdm_c.key OPERATOR(pg_catalog.=) {key})
    AND NOT EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.side OPERATOR(pg_catalog.=) 'new'
      AND zdm_c.event OPERATOR(pg_catalog.=) 'truncate') THEN
    RAISE object_not_in_prerequisite_state USING
      MESSAGE = pg_catalog.format('the row %s is not filled yet: the old version has it already, and %s there would be overwritten',
        {mine}, {names}),
      HINT = 'Until migration is complete, read the old structure; then the row is there.';
  END IF;
  RETURN NULL;
END
{quote}
