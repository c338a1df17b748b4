-- template: record_take
-- version: 2
-- parameters: function, quote, source, target, declare, own_key, match, compute, agree, mine, all, there, meet, recorded, adopt, silent, lazy, write, go, settled
-- Makes the new side's row hold what this side's row says at this moment, or go with it; but for a row that is recorded as having no
-- old form. That one stays when this side has none, is asked again whether it has a form when this side has a row that says nothing,
-- and gives way to one that says something. It is locked before it is looked at: whoever writes it is waited for.

CREATE OR REPLACE FUNCTION {function}(zdm_at {source}, zdm_lazy pg_catalog.bool, zdm_first pg_catalog.bool)
RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {source};
  zdm_recorded {target};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_next pg_catalog.text := {there};
  zdm_mirrored constant pg_catalog.bool := zdm_guard OPERATOR(pg_catalog.<>) '' AND zdm_guard OPERATOR(pg_catalog.=) {mine};
  zdm_wanted pg_catalog.bool := false;
  zdm_found pg_catalog.bool;
  zdm_over pg_catalog.bool := false;
{declare}
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.<>) '' AND (zdm_guard OPERATOR(pg_catalog.=) ({mine} OPERATOR(pg_catalog.||) '!') OR zdm_guard OPERATOR(pg_catalog.=) {all}) THEN
    RETURN true;
  ELSIF zdm_mirrored THEN
    zdm_next := zdm_next OPERATOR(pg_catalog.||) '!';
  END IF;
  -- A snapshot sees the row that somebody else has removed since, and beside it the one that took over its key; the lock tells.
  IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
    PERFORM FROM {source} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {source} AS zdm_s WHERE {own_key};
  zdm_found := FOUND;
  IF zdm_found THEN
{compute}
  END IF;
{meet}
  IF NOT zdm_mirrored AND {recorded} THEN
    PERFORM FROM {target} AS zdm_t WHERE {match} FOR NO KEY UPDATE;
    IF NOT {recorded} THEN
      NULL;
{adopt}
    ELSIF NOT zdm_wanted THEN
{settled}
      RETURN true;
    ELSE
      zdm_over := true;
    END IF;
  END IF;
{silent}
  IF zdm_wanted THEN
{lazy}
{agree}
    PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
{write}
  ELSE
    PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
{go}
  END IF;
  PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
{settled}
  RETURN true;
END
{quote}
