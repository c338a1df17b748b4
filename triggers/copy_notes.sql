-- template: copy_notes
-- version: 1
-- parameters: quote, notes, table, called
-- Rows in which sessions note that they gave rows NULL as a copy, and one in which it is noted that rows get copies from now on. There are always the same, since only a row that is there before raises 40001 when it is changed after a snapshot. The functions that note
-- are the table owner's.

DO {quote}
BEGIN
  CREATE TABLE IF NOT EXISTS {notes} (bucket integer, slot integer, noted pg_catalog.xid8, PRIMARY KEY (bucket, slot))
  WITH (fillfactor = 25);
  INSERT INTO {notes} (bucket, slot) SELECT -1, 0 UNION ALL SELECT b, s FROM pg_catalog.generate_series(0, 63) AS b, pg_catalog.generate_series(0, 63) AS s
  ON CONFLICT DO NOTHING;
  EXECUTE pg_catalog.format('GRANT SELECT, UPDATE ON %s TO %I', {called}::pg_catalog.regclass, (
    SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c WHERE c.oid = {table}::pg_catalog.regclass));
END
{quote}
