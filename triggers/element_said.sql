-- template: element_said
-- version: 1
-- parameters: agree, settle_one, keys, one, own_key, said, no_form
-- The elements are what the row says, unless a trigger made others of them, which the row then follows. A row that they do not say has no
-- old form: a rollback would lose what it holds.

      IF zdm_how OPERATOR(pg_catalog.<>) 'again' AND NOT {agree} THEN
        PERFORM {settle_one}({keys}, 'again');
        SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key};
      END IF;
      IF zdm_how OPERATOR(pg_catalog.=) ANY ('{{insert,update}}') AND NOT {said} THEN
        RAISE check_violation USING
          MESSAGE = pg_catalog.format({no_form}, zdm_mine),
          HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';
      END IF;
