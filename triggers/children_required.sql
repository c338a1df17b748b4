-- template: children_required
-- version: 1
-- parameters: quote, memory
-- A child's own NOT NULL of a column that its parent declares so as well (PostgreSQL 18): the child's constraint, by its name, before
-- the parent's is merged with it. The check that proves the parent's proves it. See children_remember.

DO {quote}
DECLARE
  one pg_catalog.record;
BEGIN
  FOR one IN
    SELECT r.child, r.name, r.column FROM pg_catalog.jsonb_to_recordset(COALESCE(
      NULLIF(pg_catalog.current_setting({memory})::pg_catalog.jsonb -> 'required', 'null'), '[]')) AS r (child text, name text, "column" text)
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I NOT NULL %I', one.child, one.name, one.column);
  END LOOP;
END
{quote}
