-- Which element of a row was written, where one row says the same as many and both are synced by log.

ALTER TABLE zdm.row_changes
    ADD COLUMN element text[],
    ADD COLUMN seen    text CHECK (seen IN ('alone', 'moved'));
COMMENT ON COLUMN zdm.row_changes.element IS 'Of a row that is one of many: what tells it apart from the others of its key, as text.';
COMMENT ON COLUMN zdm.row_changes.seen IS 'Of such a row: alone, when no other one of its key was seen, of which there may be some that are not filled yet; moved, when only its key is another one, as by a foreign key.';
