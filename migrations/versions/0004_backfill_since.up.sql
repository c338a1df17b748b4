-- From which transaction on a backfill's last look at its table must look.

ALTER TABLE zdm.data_migrations ADD COLUMN since xid8;
COMMENT ON COLUMN zdm.data_migrations.since IS 'The oldest transaction that ran when the pass began: rows that were written before it were gone through where they are.';
