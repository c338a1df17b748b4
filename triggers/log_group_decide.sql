-- template: log_group_decide
-- version: 1
-- parameters: one_side, many_side
-- Whose word counts: a row that went takes its elements along, whoever wrote them last; else the side that was written, or the later one of both.

      zdm_from := CASE
        WHEN pg_catalog.cardinality(zdm_ids) OPERATOR(pg_catalog.=) 0 THEN zdm_side
        WHEN NOT zdm_has THEN CASE WHEN zdm_gone IS NULL AND zdm_many IS NOT NULL THEN {many_side} ELSE {one_side} END
        WHEN zdm_many IS NULL THEN {one_side}
        WHEN zdm_one IS NULL OR zdm_many OPERATOR(pg_catalog.>) zdm_one THEN {many_side}
        ELSE {one_side} END;
