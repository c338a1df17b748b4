-- template: element_settle_many
-- version: 3
-- parameters: function, quote, one, many, guard, all, own_key, was_match, was_split, match, columns, arbiter, agree, split, added, same_element, going, over, write, fail, forget, back
-- Makes the elements of a row say what the row says at this moment; false if that raised, and is recorded. The caller holds the row's
-- lock, as do all who write elements of it. What agrees already, by the mapping of either direction, is left alone; so are elements that
-- the new application inserted in the statement that made the row. An element that stays keeps its row. While they are written,
-- `zdm.row` names the row: triggers on elements of it wait for this function, which looks at all of them at the end. A snapshot that may
-- be older than the elements that were made of the row cannot see them: they are made again, which raises 40001 if they are there.

CREATE OR REPLACE FUNCTION {function}(zdm_at {one}, zdm_was {one}, zdm_how pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {one};
  zdm_there pg_catalog.bool;
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_mine constant pg_catalog.text := {guard};
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) zdm_mine THEN
    RETURN true;
  END IF;
  -- A snapshot sees the row that somebody else has removed since, and beside it the one that took over its key; the lock tells.
  IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
    PERFORM FROM {one} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key};
  zdm_there := FOUND;
  IF zdm_how OPERATOR(pg_catalog.=) ANY ('{{update,delete}}') AND NOT EXISTS (SELECT FROM {many} AS zdm_m WHERE {was_match})
    AND pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
    BEGIN
      PERFORM pg_catalog.set_config('zdm.row', {all}, true);
      INSERT INTO {many} ({columns}) OVERRIDING SYSTEM VALUE {was_split} ON CONFLICT ({arbiter}) DO NOTHING;
      RAISE no_data_found;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
        OR system_error THEN RAISE;
      WHEN OTHERS THEN NULL;
    END;
  END IF;
  IF zdm_there THEN
    IF zdm_how OPERATOR(pg_catalog.=) 'insert' AND EXISTS (SELECT FROM {many} AS zdm_m WHERE {match}) THEN
      RETURN true;
    END IF;
    IF NOT {agree} THEN
      BEGIN
        PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
{over}
        DELETE FROM {many} AS zdm_m WHERE {match} AND {going} AND NOT EXISTS (SELECT FROM ({split}) AS zdm_e WHERE {same_element});
        INSERT INTO {many} AS zdm_m ({columns}) OVERRIDING SYSTEM VALUE {added} ON CONFLICT ({arbiter}) {write};
        PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
      EXCEPTION
        WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
          OR system_error THEN RAISE;
        WHEN OTHERS THEN
{fail}
          RETURN false;
      END;
{back}
    END IF;
  ELSE
    PERFORM pg_catalog.set_config('zdm.row', zdm_mine, true);
    DELETE FROM {many} AS zdm_m WHERE {match};
    PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
  END IF;
{forget}
  RETURN true;
END
{quote}
