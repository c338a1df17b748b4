-- template: part_follow_key
-- version: 1
-- parameters: child, referring, table, there, refuse
-- Part of function_follow, where no foreign key takes rows along: zdm's own would, and the application's would then find none to refuse.

      IF EXISTS (SELECT FROM {child} AS zdm_c WHERE {referring})
        AND NOT EXISTS (SELECT FROM {table} AS zdm_p WHERE {there}) THEN
{refuse}
      END IF;
