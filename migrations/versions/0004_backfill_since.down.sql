-- Takes the number away: a last look looks at every row then.

ALTER TABLE zdm.data_migrations DROP COLUMN since;
