-- template: view_create
-- version: 1
-- parameters: view, options, columns, table
-- One version of one table. Plain columns only, so that PostgreSQL itself updates the table through it.

CREATE VIEW {view}{options} AS SELECT {columns} FROM {table}
