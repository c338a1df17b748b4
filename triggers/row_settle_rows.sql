-- template: row_settle_rows
-- version: 4
-- parameters: function, quote, source, target, declare, own_key, match, compute, depth, lazy, quick, agree, first, mine, all, there, write, go, settled
-- Makes the other side's row hold what this side's row says at this moment, or go with it; false if that raised, and is recorded. The caller holds the row's lock. A row
-- that agrees already, by the mapping of either direction, is left alone: a mapping that loses something must not be derived again
-- over what the other version wrote. While it writes, `zdm.row` names the row being mirrored, so that the trigger over there knows.

CREATE OR REPLACE FUNCTION {function}(zdm_at {source}, zdm_lazy pg_catalog.bool, zdm_first pg_catalog.bool)
RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {source};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_next pg_catalog.text := {there};
  zdm_mirrored constant pg_catalog.bool := zdm_guard OPERATOR(pg_catalog.<>) ''
    AND (zdm_guard OPERATOR(pg_catalog.=) {mine} OR pg_catalog.starts_with(zdm_guard, {mine} OPERATOR(pg_catalog.||) '@'));
  zdm_wanted pg_catalog.bool := false;
  zdm_stored pg_catalog.bool;
  zdm_set pg_catalog.text;
{declare}
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.<>) '' AND (zdm_guard OPERATOR(pg_catalog.=) ({mine} OPERATOR(pg_catalog.||) '!') OR zdm_guard OPERATOR(pg_catalog.=) {all}) THEN
    RETURN true;
  ELSIF zdm_mirrored THEN
    zdm_next := zdm_next OPERATOR(pg_catalog.||) '!';
{depth}  END IF;
  -- A snapshot sees the row that somebody else has removed since, and beside it the one that took over its key; the lock tells.
  IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
    PERFORM FROM {source} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {source} AS zdm_s WHERE {own_key};
  IF FOUND THEN
{compute}
  END IF;
  IF zdm_wanted THEN
{lazy}
{quick}
{agree}
{first}
    zdm_set := pg_catalog.set_config('zdm.row', zdm_next, true);
{write}
  ELSE
    zdm_set := pg_catalog.set_config('zdm.row', zdm_next, true);
{go}
  END IF;
  zdm_set := pg_catalog.set_config('zdm.row', zdm_guard, true);
{settled}
  RETURN true;
END
{quote}
