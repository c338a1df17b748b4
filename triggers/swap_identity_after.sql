-- template: swap_identity_after
-- version: 1
-- parameters: quote, table, column, memory
-- The successor, by its final name, becomes the identity column: with a sequence of the old one's name, options, grants and
-- comment that goes on where the old one ended; see swap_identity_before.

DO {quote}
DECLARE
  facts constant pg_catalog.jsonb := pg_catalog.current_setting({memory})::pg_catalog.jsonb;
  -- Limits of the old sequence's own that the new type cannot reach end where the type does.
  bound constant numeric := (
    SELECT CASE a.atttypid WHEN 'smallint'::pg_catalog.regtype THEN 32767 WHEN 'integer'::pg_catalog.regtype THEN 2147483647
      ELSE 9223372036854775807 END
    FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = {table}::pg_catalog.regclass AND a.attname = {column});
  item pg_catalog.record;
BEGIN
  EXECUTE pg_catalog.format(
    'ALTER TABLE %s ALTER COLUMN %I ADD GENERATED %s AS IDENTITY (SEQUENCE NAME %s START WITH %s INCREMENT BY %s %s %s CACHE %s %s)',
    {table}, {column}, facts ->> 'generated', facts ->> 'name', facts ->> 'start', facts ->> 'increment',
    CASE WHEN facts ->> 'min' IS NULL THEN 'NO MINVALUE' ELSE 'MINVALUE ' || GREATEST((facts ->> 'min')::numeric, -bound - 1) END,
    CASE WHEN facts ->> 'max' IS NULL THEN 'NO MAXVALUE' ELSE 'MAXVALUE ' || LEAST((facts ->> 'max')::numeric, bound) END,
    facts ->> 'cache', CASE WHEN (facts ->> 'cycle')::boolean THEN 'CYCLE' ELSE 'NO CYCLE' END);
  PERFORM pg_catalog.setval((facts ->> 'name')::pg_catalog.regclass, (facts ->> 'value')::bigint, (facts ->> 'called')::boolean);
  IF facts ->> 'comment' IS NOT NULL THEN
    EXECUTE pg_catalog.format('COMMENT ON SEQUENCE %s IS %L', facts ->> 'name', facts ->> 'comment');
  END IF;
  FOR item IN
    SELECT g.* FROM pg_catalog.jsonb_to_recordset(COALESCE(NULLIF(facts -> 'grants', 'null'), '[]'))
      AS g (privilege pg_catalog.text, role pg_catalog.text, option boolean)
  LOOP
    EXECUTE pg_catalog.format('GRANT %s ON SEQUENCE %s TO %s%s', item.privilege, facts ->> 'name', item.role,
      CASE WHEN item.option THEN ' WITH GRANT OPTION' ELSE '' END);
  END LOOP;
END
{quote}
