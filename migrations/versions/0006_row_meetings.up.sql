-- Where sessions note that a row of the old version came which says nothing, and so makes no row of the new one that could be met by its key.
--
-- There are always the same rows: only one that is there before raises 40001 when it is changed after a snapshot. All rollouts share them.

CREATE TABLE zdm.row_meetings (
    bucket integer NOT NULL,
    slot   integer NOT NULL,
    noted  xid8,
    PRIMARY KEY (bucket, slot)
) WITH (fillfactor = 25);
INSERT INTO zdm.row_meetings (bucket, slot)
SELECT b, s FROM generate_series(0, 63) AS b, generate_series(0, 63) AS s;
COMMENT ON TABLE zdm.row_meetings IS 'Notes of rows that came to the old version without one in the new, where rows without an old form are recorded: read under their locks alone.';
COMMENT ON COLUMN zdm.row_meetings.bucket IS 'By the hash of the row''s key.';
COMMENT ON COLUMN zdm.row_meetings.slot IS 'One that no other session has locked at that moment.';
