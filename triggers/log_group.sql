-- template: log_group
-- version: 1
-- parameters: function, settings, quote, one, many, one_side, many_side, lock, one_key, named, group, order, guard, changes, filter, agree, decide, outlived, fill, settle_many, settle_one, lost_many, lost_one, fail_one, fail_many, forget
-- Brings a row and its elements to agree: under a lock on the key among reconcilers, then on the one row, then on the many, so that what both
-- hold and what was noted of it is read together. What comes while it works could not be locked; it is found at the end, and it begins again.
-- Which side counts: the one that was written, the later one of both, and a row that went. What loses is kept. Returns as `log_reconcile` does.

CREATE OR REPLACE FUNCTION {function}(zdm_key pg_catalog.text[], zdm_side pg_catalog.text)
RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp{settings} AS {quote}
DECLARE
  zdm_row {one};
  zdm_has pg_catalog.bool;
  zdm_ids pg_catalog.int8[];
  zdm_latest pg_catalog.int8;
  zdm_one pg_catalog.int8;
  zdm_many pg_catalog.int8;
  zdm_gone pg_catalog.int8;
  zdm_ended pg_catalog.int8;
  zdm_emptied pg_catalog.bool;
  zdm_alone pg_catalog.bool;
  zdm_from pg_catalog.text;
  zdm_mine pg_catalog.text;
BEGIN
  IF NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({lock} OPERATOR(pg_catalog.||) zdm_key::pg_catalog.text, 0)) THEN
    RETURN 'taken';
  END IF;
  FOR zdm_try IN 1..3 LOOP
    zdm_from := NULL;
    BEGIN
      SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {one_key} FOR NO KEY UPDATE;
      zdm_has := FOUND;
      IF NOT zdm_has THEN
{named}
      END IF;
      zdm_mine := {guard};
      PERFORM FROM {many} AS zdm_m WHERE {group} ORDER BY {order} FOR NO KEY UPDATE;
      SELECT COALESCE(pg_catalog.array_agg(zdm_c.id), '{{}}'), pg_catalog.max(zdm_c.id),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {one_side} AND zdm_c.parts IS NULL),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {many_side} AND zdm_c.parts IS NULL),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {one_side}
          AND zdm_c.event OPERATOR(pg_catalog.=) 'delete'),
        pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {one_side}
          AND zdm_c.event OPERATOR(pg_catalog.=) 'delete' AND zdm_c.parts IS NULL),
        COALESCE(pg_catalog.bool_or(zdm_c.side OPERATOR(pg_catalog.=) {many_side} AND zdm_c.element IS NULL), false),
        COALESCE(pg_catalog.bool_or(zdm_c.seen OPERATOR(pg_catalog.=) 'alone'), false)
      INTO zdm_ids, zdm_latest, zdm_one, zdm_many, zdm_gone, zdm_ended, zdm_emptied, zdm_alone
      FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key;
      IF EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'key' AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key)
        OR EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.was OPERATOR(pg_catalog.=) zdm_key)
        OR EXISTS (SELECT FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.event OPERATOR(pg_catalog.=) 'truncate'
          AND zdm_c.id OPERATOR(pg_catalog.<) zdm_latest) THEN
        RETURN 'busy';
      ELSIF pg_catalog.cardinality(zdm_ids) OPERATOR(pg_catalog.=) 0 AND zdm_side IS NULL THEN
        RETURN 'done';
      END IF;
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
      IF (SELECT pg_catalog.count(*) FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key)
        OPERATOR(pg_catalog.<>) pg_catalog.cardinality(zdm_ids) THEN
        RAISE SQLSTATE 'ZDM01';
      END IF;
      DELETE FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.=) ANY (zdm_ids);
{forget}
      RETURN 'done';
    EXCEPTION
      WHEN SQLSTATE 'ZDM01' THEN
        NULL;
      WHEN lock_not_available OR transaction_rollback THEN
        RETURN 'busy';
      WHEN insufficient_resources OR operator_intervention OR system_error OR syntax_error_or_access_rule_violation THEN
        RAISE;
      WHEN OTHERS THEN
        IF zdm_from OPERATOR(pg_catalog.=) {one_side} THEN
{fail_one}
        ELSE
{fail_many}
        END IF;
        IF SQLSTATE OPERATOR(pg_catalog.=) ANY (ARRAY['23505', '23P01'])
          AND pg_catalog.current_setting('zdm.patient', true) OPERATOR(pg_catalog.=) 'on' THEN
          RETURN 'in the way';
        END IF;
        UPDATE {changes} AS zdm_c SET failed = true WHERE {filter} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_key;
        RETURN 'failed';
    END;
  END LOOP;
  RETURN 'busy';
END
{quote}
