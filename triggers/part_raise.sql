-- template: part_raise
-- version: 1
-- parameters: code, message, detail, hint, schema, table, column
-- Refuses the statement, in words for a person. Never with a value of the row.

    RAISE EXCEPTION USING ERRCODE = {code}, MESSAGE = {message}, DETAIL = {detail}, HINT = {hint},
      SCHEMA = {schema}, TABLE = {table}, COLUMN = {column};
