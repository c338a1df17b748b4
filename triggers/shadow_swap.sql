-- template: shadow_swap
-- version: 1
-- parameters: quote, old, new, schema, final
-- The old table goes and the new one takes its place, in one transaction: sequences that its columns own go over, triggers
-- and extended statistics are made again as the server spelled them, now that the name means the new table.

DO {quote}
DECLARE
  old constant pg_catalog.regclass := {old};
  new constant pg_catalog.regclass := {new};
  triggers constant pg_catalog.jsonb := (
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', t.tgname, 'definition', pg_catalog.pg_get_triggerdef(t.oid),
        'enabled', CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END,
        'comment', pg_catalog.obj_description(t.oid, 'pg_trigger')) ORDER BY t.tgname)
    FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = old AND NOT t.tgisinternal);
  statistics constant pg_catalog.jsonb := (
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', pg_catalog.format('%I.%I', n.nspname, s.stxname),
        'definition', pg_catalog.pg_get_statisticsobjdef(s.oid), 'target', NULLIF(s.stxstattarget, -1),
        'owner', pg_catalog.pg_get_userbyid(s.stxowner), 'comment', pg_catalog.obj_description(s.oid, 'pg_statistic_ext')) ORDER BY s.oid)
    FROM pg_catalog.pg_statistic_ext AS s JOIN pg_catalog.pg_namespace AS n ON n.oid = s.stxnamespace WHERE s.stxrelid = old);
  sequences constant pg_catalog.jsonb := (
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', d.objid::pg_catalog.regclass::pg_catalog.text, 'column', a.attname))
    FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    JOIN pg_catalog.pg_attribute AS b ON b.attrelid = new AND b.attname = a.attname AND NOT b.attisdropped
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'a'
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = old);
  item pg_catalog.record;
BEGIN
  FOR item IN SELECT s.* FROM pg_catalog.jsonb_to_recordset(COALESCE(sequences, '[]')) AS s (name pg_catalog.text) LOOP
    EXECUTE pg_catalog.format('ALTER SEQUENCE %s OWNED BY NONE', item.name);
  END LOOP;
  -- What mirrored the old table's rows takes them as arguments. No trigger calls it any more.
  FOR item IN
    SELECT p.oid::pg_catalog.regprocedure AS function FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'zdm'
    JOIN pg_catalog.pg_class AS c ON c.oid = old AND c.reltype = ANY (p.proargtypes)
    WHERE pg_catalog.starts_with(p.proname, 'rows_')
  LOOP
    EXECUTE pg_catalog.format('DROP FUNCTION %s', item.function);
  END LOOP;
  EXECUTE pg_catalog.format('DROP TABLE %s', old);
  EXECUTE pg_catalog.format('ALTER TABLE %s SET SCHEMA %I', new, {schema});
  FOR item IN
    SELECT s.* FROM pg_catalog.jsonb_to_recordset(COALESCE(sequences, '[]')) AS s (name pg_catalog.text, "column" pg_catalog.text)
  LOOP
    EXECUTE pg_catalog.format('ALTER SEQUENCE %s OWNED BY %s.%I', item.name, {final}, item."column");
  END LOOP;
  FOR item IN
    SELECT t.* FROM pg_catalog.jsonb_to_recordset(COALESCE(triggers, '[]'))
      AS t (name pg_catalog.text, definition pg_catalog.text, enabled pg_catalog.text, comment pg_catalog.text)
  LOOP
    EXECUTE item.definition;
    IF item.enabled IS NOT NULL THEN
      EXECUTE pg_catalog.format('ALTER TABLE %s %s TRIGGER %I', {final}, item.enabled, item.name);
    END IF;
    IF item.comment IS NOT NULL THEN
      EXECUTE pg_catalog.format('COMMENT ON TRIGGER %I ON %s IS %L', item.name, {final}, item.comment);
    END IF;
  END LOOP;
  FOR item IN
    SELECT s.* FROM pg_catalog.jsonb_to_recordset(COALESCE(statistics, '[]'))
      AS s (name pg_catalog.text, definition pg_catalog.text, target pg_catalog.int4, owner pg_catalog.text, comment pg_catalog.text)
  LOOP
    EXECUTE item.definition;
    IF item.target IS NOT NULL THEN
      EXECUTE pg_catalog.format('ALTER STATISTICS %s SET STATISTICS %s', item.name, item.target);
    END IF;
    IF item.comment IS NOT NULL THEN
      EXECUTE pg_catalog.format('COMMENT ON STATISTICS %s IS %L', item.name, item.comment);
    END IF;
    EXECUTE pg_catalog.format('ALTER STATISTICS %s OWNER TO %I', item.name, item.owner);
  END LOOP;
END
{quote}
