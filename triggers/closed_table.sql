-- template: closed_table
-- version: 1
-- parameters: direct, table, function, written, truncated
-- Whatever is written to the table by a statement of its own; what a foreign key does for the old version, or what mirrors it, has to pass.

CREATE OR REPLACE TRIGGER {written} BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW
  WHEN ({direct}) EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {truncated} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT
  WHEN ({direct}) EXECUTE FUNCTION {function}();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {written}, ENABLE ALWAYS TRIGGER {truncated}
