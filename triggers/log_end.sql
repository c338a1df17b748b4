-- template: log_end
-- version: 2
-- parameters: quote, schema, table, trigger, purpose, side, over
-- Carries the rest of what a side has noted over before its triggers go, if they are there; `over` says that nothing can be reconciled afterwards, so that
-- what does it goes as well. The functions' names hold the rollout's number, which the trigger knows.

DO {quote}
DECLARE
  prefix pg_catalog.text;
  item pg_catalog.record;
BEGIN
  SELECT pg_catalog.left(p.proname, -pg_catalog.length({purpose})) INTO prefix FROM pg_catalog.pg_trigger AS t
  JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
  WHERE t.tgrelid = pg_catalog.to_regclass({table}) AND t.tgname = {trigger};
  IF pg_catalog.to_regprocedure(pg_catalog.format('%I.%I(text)', {schema}, prefix || 'last')) IS NULL THEN
    RETURN;
  END IF;
  EXECUTE pg_catalog.format('SELECT %I.%I(%L)', {schema}, prefix || 'last', {side});
  IF {over} THEN
    FOR item IN
      SELECT p.oid::pg_catalog.regprocedure AS function FROM pg_catalog.pg_proc AS p
      JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
      WHERE n.nspname = {schema} AND p.proname = ANY (ARRAY[prefix || 'work', prefix || 'last'])
    LOOP
      EXECUTE pg_catalog.format('DROP FUNCTION %s', item.function);
    END LOOP;
  END IF;
END
{quote}
