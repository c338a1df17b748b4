-- template: lookup_rights
-- version: 1
-- parameters: quote, table, views
-- The owner of the table, as whom the sync functions run, may look up rows in these views, and lock them, which needs UPDATE; a
-- rule lets an UPDATE of such a view do nothing.

DO {quote}
DECLARE
  owner constant pg_catalog.name := (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c
    WHERE c.oid = {table}::pg_catalog.regclass);
  item pg_catalog.text;
BEGIN
  FOREACH item IN ARRAY {views}::pg_catalog.text[] LOOP
    EXECUTE pg_catalog.format('GRANT SELECT, UPDATE ON %s TO %I', item::pg_catalog.regclass, owner);
  END LOOP;
END
{quote}
