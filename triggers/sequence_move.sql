-- template: sequence_move
-- version: 1
-- parameters: quote, table, column, owner
-- The sequence that a column owns becomes another one's; nothing if it owns none.

DO {quote}
DECLARE
  found constant pg_catalog.text := pg_catalog.pg_get_serial_sequence({table}, {column});
BEGIN
  IF found IS NOT NULL THEN
    EXECUTE pg_catalog.format('ALTER SEQUENCE %s OWNED BY %s', found, {owner});
  END IF;
END
{quote}
