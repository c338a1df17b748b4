-- template: view_stamp
-- version: 1
-- parameters: quote, view, label
-- Stamps a version view with where it comes from and the hash of the definition that the server holds now.

DO {quote}
DECLARE
  path constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
  PERFORM pg_catalog.set_config('search_path', '', true);
  EXECUTE pg_catalog.format('COMMENT ON VIEW %s IS %L', {view}::pg_catalog.text,
    {label} || encode(sha256(convert_to(pg_get_viewdef({view}::pg_catalog.regclass), 'UTF8')), 'hex'));
  PERFORM pg_catalog.set_config('search_path', path, true);
END
{quote}
