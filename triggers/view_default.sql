-- template: view_default
-- version: 1
-- parameters: view, column, default
-- A default of the version's own, for INSERTs through its view.

ALTER VIEW {view} ALTER COLUMN {column} SET DEFAULT {default}
