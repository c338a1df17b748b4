-- template: log_work
-- version: 2
-- parameters: function, quote, changes, filter, reconcile, move, expand
-- Reconciles what is noted after an entry, oldest first, up to so many entries, until a moment. Says how far it came, how many entries
-- it looked at, of how many keys it brought both sides to agree or recorded a failure, which entries others held it off, and of which
-- another row still has a value: that one may be noted further on. Once a row went to another partition there are a few milliseconds left:
-- whoever waits for such a row gets an error from the server.

CREATE OR REPLACE FUNCTION {function}(zdm_after pg_catalog.int8, zdm_rows pg_catalog.int4, zdm_until pg_catalog.timestamptz,
  OUT reached pg_catalog.int8, OUT seen pg_catalog.int4, OUT done pg_catalog.int4, OUT failed pg_catalog.int4, OUT held pg_catalog.int8[],
  OUT blocked pg_catalog.int8[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS {quote}
DECLARE
  zdm_entry pg_catalog.record;
  zdm_found pg_catalog.text;
  zdm_keys pg_catalog.text[] := '{{}}';
BEGIN
  reached := zdm_after; seen := 0; done := 0; failed := 0; held := '{{}}'; blocked := '{{}}';
  -- What a constraint refuses is one row's matter, and not that of all at the end of the transaction.
  SET CONSTRAINTS ALL IMMEDIATE;
  PERFORM pg_catalog.set_config('zdm.patient', 'on', true);
  PERFORM pg_catalog.set_config('zdm.moved', '', true);
  FOR zdm_entry IN
    SELECT zdm_c.id, zdm_c.event, zdm_c.key FROM {changes} AS zdm_c
    WHERE {filter} AND zdm_c.id OPERATOR(pg_catalog.>) zdm_after AND NOT zdm_c.failed ORDER BY zdm_c.id LIMIT zdm_rows
  LOOP
    reached := zdm_entry.id;
    seen := seen OPERATOR(pg_catalog.+) 1;
    IF zdm_entry.event OPERATOR(pg_catalog.=) 'truncate' THEN
      zdm_found := {expand}(zdm_entry.id);
    ELSIF zdm_entry.key::pg_catalog.text OPERATOR(pg_catalog.=) ANY (zdm_keys) AND zdm_entry.event OPERATOR(pg_catalog.<>) 'key' THEN
      CONTINUE;
    ELSE
      zdm_keys := zdm_keys OPERATOR(pg_catalog.||) zdm_entry.key::pg_catalog.text;
      zdm_found := CASE zdm_entry.event WHEN 'key' THEN {move}(zdm_entry.id) ELSE 'done' END;
      IF zdm_found OPERATOR(pg_catalog.=) 'done' THEN
        zdm_found := {reconcile}(zdm_entry.key, NULL);
      END IF;
    END IF;
    CASE zdm_found
      WHEN 'taken' THEN NULL;
      WHEN 'done' THEN done := done OPERATOR(pg_catalog.+) 1;
      WHEN 'busy' THEN held := held OPERATOR(pg_catalog.||) zdm_entry.id;
      WHEN 'in the way' THEN blocked := blocked OPERATOR(pg_catalog.||) zdm_entry.id;
      ELSE failed := failed OPERATOR(pg_catalog.+) 1;
    END CASE;
    IF pg_catalog.current_setting('zdm.moved', true) OPERATOR(pg_catalog.=) 'on' AND zdm_until OPERATOR(pg_catalog.<>) 'infinity' THEN
      PERFORM pg_catalog.set_config('zdm.moved', '', true);
      zdm_until := LEAST(zdm_until, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) '5 milliseconds'::pg_catalog.interval);
    END IF;
    EXIT WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) zdm_until;
  END LOOP;
END
{quote}
