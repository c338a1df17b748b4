-- template: record_join_go
-- version: 1
-- parameters: target, match, clear, holds, recorded
-- The old side has no row any more: the new side's columns are empty, unless they hold what has no old form.

    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
    UPDATE {target} AS zdm_t SET {clear} WHERE {match} AND {holds} AND NOT {recorded};
