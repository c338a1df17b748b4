-- template: log_group
-- version: 2
-- parameters: agree, decide, fill, group, lost_many, lost_one, many, one_side, outlived, settle_many, settle_one
-- Which side counts: the one that was written, the later one of both, and a row that went. What loses is kept.

{decide}
      PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
{outlived}
{fill}
      PERFORM pg_catalog.set_config('zdm.row', '', true);
      IF zdm_from OPERATOR(pg_catalog.=) {one_side} THEN
        IF zdm_many IS NOT NULL AND (CASE WHEN zdm_has THEN NOT {agree}
          ELSE zdm_many OPERATOR(pg_catalog.>) zdm_gone AND EXISTS (SELECT FROM {many} AS zdm_m WHERE {group}) END) THEN
{lost_many}
        END IF;
{settle_many}
      ELSIF NOT zdm_has OR NOT {agree} THEN
        IF zdm_has AND zdm_one OPERATOR(pg_catalog.<>) COALESCE(zdm_ended, 0) AND NOT zdm_alone THEN
{lost_one}
        END IF;
{settle_one}
      END IF;
