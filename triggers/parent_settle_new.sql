-- template: parent_settle_new
-- version: 3
-- parameters: function, quote, source, parent, link, declare, guard, all, own_key, key_same, same, wanted, compute, agree, find, linked, link_columns, link_values, was_values, same_parent, going, taken, released, probe_compute, fail, forget
-- Makes the links of a row of the source hold what its values say at this moment; false if that raised, and is recorded. The caller
-- holds the row's lock. A row that agrees already, by the mapping of either direction, is left alone; so is one whose values say what
-- they said before: its links may be the new application's, written by the same statement. What it said before also matters to a
-- snapshot which may be older than the link that was made of it: the same link is made again, which raises 40001 if it is there.

CREATE OR REPLACE FUNCTION {function}(zdm_at {source}, zdm_was {source}, zdm_how pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {source};
  zdm_there pg_catalog.bool;
  zdm_parent {parent};
  zdm_before {link};
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_next pg_catalog.text := {guard};
  zdm_later constant pg_catalog.bool := pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed';
{declare}
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) (zdm_next OPERATOR(pg_catalog.||) '!') THEN
    RETURN true;
  ELSIF zdm_guard OPERATOR(pg_catalog.=) zdm_next THEN
    zdm_next := zdm_next OPERATOR(pg_catalog.||) '!';
  END IF;
  -- A snapshot sees the row that somebody else has removed since, and beside it the one that took over its key; the lock tells.
  IF zdm_later THEN
    PERFORM FROM {source} AS zdm_s WHERE {own_key} FOR NO KEY UPDATE;
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {source} AS zdm_s WHERE {own_key};
  zdm_there := FOUND;
  IF zdm_how OPERATOR(pg_catalog.=) 'update' AND zdm_there AND {key_same} AND {same}(zdm_was, zdm_row) THEN
    RETURN true;
  END IF;
  IF zdm_later AND zdm_how OPERATOR(pg_catalog.=) ANY ('{{update,delete}}') AND NOT EXISTS (SELECT FROM {link} AS zdm_l WHERE {linked}) AND {wanted}(zdm_was) THEN
    BEGIN
{probe_compute}
      zdm_parent := {find};
      PERFORM pg_catalog.set_config('zdm.row', {all}, true);
      INSERT INTO {link} ({link_columns}) VALUES ({was_values}) ON CONFLICT DO NOTHING;
      RAISE no_data_found;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
        OR system_error THEN RAISE;
      WHEN OTHERS THEN NULL;
    END;
  END IF;
  IF zdm_there AND {wanted}(zdm_row) THEN
    BEGIN
{compute}
{agree}
      zdm_parent := {find};
{taken}
      PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
      FOR zdm_before IN DELETE FROM {link} AS zdm_l WHERE {linked} AND NOT {same_parent} AND {going} RETURNING zdm_l.* LOOP
{released}
      END LOOP;
      INSERT INTO {link} ({link_columns}) VALUES ({link_values}) ON CONFLICT DO NOTHING;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention
        OR system_error THEN RAISE;
      WHEN OTHERS THEN
{fail}
        RETURN false;
    END;
  ELSIF NOT zdm_there OR zdm_how OPERATOR(pg_catalog.=) 'repair' OR (zdm_how OPERATOR(pg_catalog.=) 'update' AND {wanted}(zdm_was)) THEN
    PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
    FOR zdm_before IN DELETE FROM {link} AS zdm_l WHERE {linked} AND (NOT zdm_there OR {going}) RETURNING zdm_l.* LOOP
{released}
    END LOOP;
  END IF;
  PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
{forget}
  RETURN true;
END
{quote}
