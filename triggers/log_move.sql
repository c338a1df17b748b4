-- template: log_move
-- version: 2
-- parameters: old, new, old_key, new_key, old_was, new_was, move_new, move_old
-- The other side's row goes along, so that what only that one knows stays.

    PERFORM FROM {old} AS zdm_s WHERE {old_was} FOR NO KEY UPDATE;
    PERFORM FROM {old} AS zdm_s WHERE {old_key} FOR NO KEY UPDATE;
    PERFORM FROM {new} AS zdm_s WHERE {new_was} FOR NO KEY UPDATE;
    PERFORM FROM {new} AS zdm_s WHERE {new_key} FOR NO KEY UPDATE;
    IF zdm_side OPERATOR(pg_catalog.=) 'old' THEN
{move_new}
    ELSE
{move_old}
    END IF;
