-- template: record_join
-- version: 1
-- parameters: target, match, recorded, conflict, forget, keep, fill, unmapped
-- Fills the columns of the new side's row. It is locked before it is asked whether it is recorded, so that whoever writes it is waited for; what it held
-- is kept as what lost, if it was.

    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
    IF NOT zdm_mirrored AND {recorded} THEN
{conflict}
{forget}
    END IF;
{keep}
{fill}
    IF NOT FOUND THEN
{unmapped}
    END IF;
