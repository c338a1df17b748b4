-- template: parent_settle_old
-- version: 3
-- parameters: function, quote, source, parent, link, counted, guard, all, source_of, links_of, joined, agree, wanted, failure, belongs, stranger, parent_text, assign, clear, names, referring
-- Makes the values of a row of the source hold what its link says at this moment; without one, what they are empty with. The row is
-- locked first, so that all who write its links come one after the other. A new link of a row that holds something else is left alone:
-- either another one went before it, whose own trigger comes, or it has met a row which is not filled yet, and taking it would destroy
-- the old value. A trigger at the end of the transaction refuses that, and more than one link.

CREATE OR REPLACE FUNCTION {function}(zdm_at {link}, zdm_how pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS {quote}
DECLARE
  zdm_row {source};
  zdm_parent {parent};
  zdm_links pg_catalog.int8;
  zdm_guard constant pg_catalog.text := COALESCE(pg_catalog.current_setting('zdm.row', true), '');
  zdm_next pg_catalog.text := {guard};
BEGIN
  IF zdm_guard OPERATOR(pg_catalog.=) (zdm_next OPERATOR(pg_catalog.||) '!')
    OR (zdm_guard OPERATOR(pg_catalog.=) {all} AND zdm_how OPERATOR(pg_catalog.<>) 'repair') THEN
    RETURN true;
  ELSIF zdm_guard OPERATOR(pg_catalog.=) zdm_next THEN
    zdm_next := zdm_next OPERATOR(pg_catalog.||) '!';
  END IF;
  SELECT zdm_s.* INTO zdm_row FROM {source} AS zdm_s WHERE {source_of} FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    IF EXISTS (SELECT FROM {link} AS zdm_l WHERE {links_of}) THEN
      -- A foreign key refuses it, whether the row is not there or only not seen; without one it may be there when it is tried again.
      IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' AND NOT EXISTS ({referring}) THEN
        RAISE serialization_failure USING MESSAGE = 'could not serialize access: the row it belongs to is not seen';
      END IF;
      RAISE foreign_key_violation USING MESSAGE = pg_catalog.format('there is no row %s', zdm_next),
        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
    END IF;
    RETURN true;
  END IF;
  SELECT pg_catalog.count(*) INTO zdm_links FROM {counted} AS zdm_l WHERE {links_of};
  IF zdm_how OPERATOR(pg_catalog.=) 'late' AND zdm_links OPERATOR(pg_catalog.=) 0 THEN
    RETURN true;
  END IF;
  IF zdm_links OPERATOR(pg_catalog.>) 0 THEN
    BEGIN
      PERFORM FROM {counted} AS zdm_l JOIN {parent} AS zdm_p ON {joined} WHERE {links_of} AND {agree} FOR KEY SHARE OF zdm_p;
    EXCEPTION
      WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;
      WHEN OTHERS THEN PERFORM WHERE false;
    END;
    IF FOUND OR zdm_links OPERATOR(pg_catalog.>) 1 THEN
      RETURN true;
    END IF;
  END IF;
  IF EXISTS (SELECT {failure}) THEN
    IF zdm_how OPERATOR(pg_catalog.=) ANY ('{{follow,repair}}') THEN
      RETURN true;
    END IF;
    RAISE object_not_in_prerequisite_state USING
      MESSAGE = pg_catalog.format('the row %s holds a value of the old version that has no new form, in %s', zdm_next, {names}),
      HINT = 'zdm.sync_failures says why. Correct it there first; it would be overwritten.';
  END IF;
  IF zdm_links OPERATOR(pg_catalog.>) 0 THEN
    IF zdm_how OPERATOR(pg_catalog.=) 'insert' AND {wanted}(zdm_row) THEN
      RETURN true;
    ELSIF zdm_how OPERATOR(pg_catalog.=) 'late' AND {wanted}(zdm_row) THEN
      RAISE object_not_in_prerequisite_state USING
        MESSAGE = pg_catalog.format('the row %s is not filled yet: the old version''s %s holds a value that it would overwrite', zdm_next, {names}),
        HINT = 'Until migration is complete, read the old structure; then the row is there.';
    END IF;
    SELECT zdm_p.* INTO zdm_parent FROM {counted} AS zdm_l JOIN {parent} AS zdm_p ON {joined} WHERE {links_of} FOR KEY SHARE OF zdm_p;
    IF NOT FOUND THEN
      RAISE foreign_key_violation USING MESSAGE = {parent_text};
    ELSIF NOT {belongs} THEN
      RAISE integrity_constraint_violation USING MESSAGE = pg_catalog.format({stranger}, zdm_next),
        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
    END IF;
    PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
    UPDATE {source} AS zdm_s SET {assign} WHERE {source_of};
  ELSIF {wanted}(zdm_row) THEN
    PERFORM pg_catalog.set_config('zdm.row', zdm_next, true);
    UPDATE {source} AS zdm_s SET {clear} WHERE {source_of};
  END IF;
  PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);
  RETURN true;
END
{quote}
