-- zdm's catalog. It lives in the database it describes, so that steps and cursors commit with the work they describe.
--
-- Names are always qualified: search_path is the application's affair. Times are the server's clock_timestamp().
-- Vocabularies are CHECKs, except a rollout's states: those come from phases/*.toml and are filled in by `zdm init`.
-- Triggers are ENABLE ALWAYS: session_replication_role does not switch the rules off.

REVOKE ALL ON SCHEMA zdm FROM PUBLIC;
COMMENT ON SCHEMA zdm IS 'Zero-downtime migrations: the catalog of zdm. Do not write here by hand.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Settings and targets

CREATE TABLE zdm.settings (
    name   text PRIMARY KEY,
    value  jsonb NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    set_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE zdm.settings IS 'Settings of this installation that every zdm process shares.';

CREATE TABLE zdm.targets (
    name        text PRIMARY KEY,
    schema_name text NOT NULL,
    description text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE zdm.targets IS 'Where migrations roll out to: a schema of this database; a tenant is a target.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The phase machine, as the database knows it. Both tables are filled from phases/*.toml whenever the catalog is installed.

CREATE TABLE zdm.phase_states (
    state  text PRIMARY KEY,
    phase  text CHECK (phase IN ('preparation', 'migration', 'switchover', 'cleanup')),
    active boolean NOT NULL
);
COMMENT ON TABLE zdm.phase_states IS 'Every state of a rollout, the phase it belongs to, and whether the rollout is under way in it.';

CREATE TABLE zdm.phase_moves (
    from_state text NOT NULL REFERENCES zdm.phase_states,
    to_state   text NOT NULL REFERENCES zdm.phase_states,
    PRIMARY KEY (from_state, to_state)
);
COMMENT ON TABLE zdm.phase_moves IS 'The legal moves between states; the trigger legal_move on zdm.module_migrations refuses all others.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The registry

CREATE TABLE zdm.schema_migrations (
    id             text PRIMARY KEY,
    module         text,
    version        text,
    from_version   text,
    checksum       text NOT NULL CHECK (checksum ~ '^[0-9a-f]{64}$'),
    canonical      jsonb NOT NULL,
    file           text NOT NULL DEFAULT '',
    source         text NOT NULL,
    depends_on     text[] NOT NULL DEFAULT '{}' CHECK (NOT id = ANY (depends_on)),
    risk           text NOT NULL CHECK (risk IN ('low', 'medium', 'high')),
    description    text NOT NULL DEFAULT '',
    estimated_time interval,
    up_sql         text NOT NULL DEFAULT '',
    down_sql       text NOT NULL DEFAULT '',
    registered_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    registered_by  text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE zdm.schema_migrations IS 'The registry: every migration this database has been shown.';
COMMENT ON COLUMN zdm.schema_migrations.checksum IS 'SHA-256 of the canonical JSON; comments and layout of the file do not count.';
COMMENT ON COLUMN zdm.schema_migrations.canonical IS 'The migration without defaults.';
COMMENT ON COLUMN zdm.schema_migrations.file IS 'Name of the file it was read from; empty if it was built in Python.';
COMMENT ON COLUMN zdm.schema_migrations.source IS 'The text of that file, as it was.';
COMMENT ON COLUMN zdm.schema_migrations.up_sql IS 'The statements of all phases as last rendered, for people.';
COMMENT ON COLUMN zdm.schema_migrations.down_sql IS 'The statements of the way back as last rendered, for people.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Rollouts: one migration on one target

CREATE TABLE zdm.module_migrations (
    id                      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration               text NOT NULL REFERENCES zdm.schema_migrations,
    checksum                text NOT NULL,
    target                  text NOT NULL REFERENCES zdm.targets,
    state                   text NOT NULL DEFAULT 'planned' REFERENCES zdm.phase_states,
    phase                   text CHECK (phase IN ('preparation', 'migration', 'switchover', 'cleanup')),
    authority               text NOT NULL DEFAULT 'old' CHECK (authority IN ('old', 'new')),
    paused                  boolean NOT NULL DEFAULT false,
    fenced_at               timestamptz,
    plan                    jsonb NOT NULL,
    old_schema              text NOT NULL DEFAULT '',
    new_schema              text NOT NULL DEFAULT '',
    failure                 text,
    created_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by              text NOT NULL DEFAULT session_user,
    preparation_started_at  timestamptz,
    preparation_finished_at timestamptz,
    migration_started_at    timestamptz,
    migration_finished_at   timestamptz,
    switchover_started_at   timestamptz,
    switched_over_at        timestamptz,
    cleanup_started_at      timestamptz,
    completed_at            timestamptz,
    rollback_started_at     timestamptz,
    rolled_back_at          timestamptz
);
CREATE UNIQUE INDEX module_migrations_live ON zdm.module_migrations (migration, target) WHERE state <> 'rolled_back';
COMMENT ON TABLE zdm.module_migrations IS 'Rollouts: one migration on one target. A rolled back one stays as history.';
COMMENT ON COLUMN zdm.module_migrations.checksum IS 'The migration''s checksum when it was planned.';
COMMENT ON COLUMN zdm.module_migrations.state IS 'Where it stands. Moves outside zdm.phase_moves are refused.';
COMMENT ON COLUMN zdm.module_migrations.phase IS 'The last phase it entered; kept on the way back. Set by trigger.';
COMMENT ON COLUMN zdm.module_migrations.authority IS 'Which side wins while both exist: old until switchover, then new.';
COMMENT ON COLUMN zdm.module_migrations.paused IS 'Somebody asked long work to wait.';
COMMENT ON COLUMN zdm.module_migrations.fenced_at IS 'Since when the old structure is set aside under other names; NULL if it is not.';
COMMENT ON COLUMN zdm.module_migrations.plan IS 'Steps and mappings as planned; a resume runs these, never what would be planned now.';
COMMENT ON COLUMN zdm.module_migrations.old_schema IS 'The old version''s schema; empty where the migration exposes columns only.';
COMMENT ON COLUMN zdm.module_migrations.failure IS 'Why the present *_failed state was entered.';

CREATE TABLE zdm.rollout_tables (
    rollout     bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    table_oid   oid,
    active      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (rollout, schema_name, table_name)
);
CREATE UNIQUE INDEX rollout_tables_active ON zdm.rollout_tables (schema_name, table_name) WHERE active;
COMMENT ON TABLE zdm.rollout_tables IS 'The tables a rollout changes, by old and new name. Two rollouts under way never share one.';
COMMENT ON COLUMN zdm.rollout_tables.active IS 'Whether the rollout is under way. Set by trigger.';

-- Checks a move, stamps its times and the phase, claims or frees the rollout's tables.
CREATE FUNCTION zdm.move_rollout() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at_once timestamptz := clock_timestamp();
    goes    zdm.phase_states;
    other   record;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'planned' THEN
            RAISE EXCEPTION 'a rollout begins as planned, not as %', NEW.state
                USING ERRCODE = 'check_violation', CONSTRAINT = 'legal_move';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.state = OLD.state THEN  -- not a move: a resumed phase may say so again
        RETURN NEW;
    END IF;
    IF NOT EXISTS (SELECT FROM zdm.phase_moves AS m WHERE m.from_state = OLD.state AND m.to_state = NEW.state) THEN
        RAISE EXCEPTION 'rollout % of % on % cannot go from % to %', OLD.id, OLD.migration, OLD.target, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'legal_move',
                  DETAIL = format('From %s it can go to: %s.', OLD.state, coalesce(
                      (SELECT string_agg(m.to_state, ', ' ORDER BY m.to_state) FROM zdm.phase_moves AS m WHERE m.from_state = OLD.state),
                      'nothing'));
    END IF;
    SELECT * INTO STRICT goes FROM zdm.phase_states AS s WHERE s.state = NEW.state;
    NEW.phase := coalesce(goes.phase, NEW.phase);

    CASE NEW.state
        WHEN 'planned' THEN  -- started over after a rollback: nothing of the first attempt counts
            NEW.phase := NULL;
            NEW.authority := 'old';
            NEW.paused := false;
            NEW.fenced_at := NULL;
            NEW.preparation_started_at := NULL;  NEW.preparation_finished_at := NULL;
            NEW.migration_started_at := NULL;    NEW.migration_finished_at := NULL;
            NEW.switchover_started_at := NULL;   NEW.switched_over_at := NULL;
            NEW.cleanup_started_at := NULL;      NEW.completed_at := NULL;
            NEW.rollback_started_at := NULL;     NEW.rolled_back_at := NULL;
            UPDATE zdm.migration_steps SET status = 'pending', attempts = 0, started_at = NULL, finished_at = NULL, error = NULL
                WHERE rollout = NEW.id;
            DELETE FROM zdm.data_migrations WHERE rollout = NEW.id;
            DELETE FROM zdm.verifications WHERE rollout = NEW.id;
            DELETE FROM zdm.approvals WHERE rollout = NEW.id;
        -- A resumed phase keeps the time it was first started at.
        WHEN 'preparing' THEN NEW.preparation_started_at := coalesce(NEW.preparation_started_at, at_once);
        WHEN 'prepared' THEN NEW.preparation_finished_at := at_once;
        WHEN 'migrating' THEN NEW.migration_started_at := coalesce(NEW.migration_started_at, at_once);
        WHEN 'migrated' THEN NEW.migration_finished_at := at_once;
        WHEN 'switching_over' THEN NEW.switchover_started_at := coalesce(NEW.switchover_started_at, at_once);
        WHEN 'switched_over' THEN NEW.switched_over_at := at_once;
        WHEN 'cleaning_up' THEN NEW.cleanup_started_at := coalesce(NEW.cleanup_started_at, at_once);
        WHEN 'completed' THEN NEW.completed_at := at_once;
        WHEN 'rolling_back' THEN NEW.rollback_started_at := coalesce(NEW.rollback_started_at, at_once);
        WHEN 'rolled_back' THEN NEW.rolled_back_at := at_once;
        ELSE NULL;
    END CASE;

    IF goes.active AND EXISTS (SELECT FROM zdm.rollout_tables AS t WHERE t.rollout = NEW.id AND NOT t.active) THEN
        -- One at a time, so that the loser of a race is told who won; the unique index is the proof.
        PERFORM pg_advisory_xact_lock(hashtextextended('zdm.rollout_tables', 0));
        SELECT t.schema_name, t.table_name, r.id, r.migration, r.target, r.state INTO other
            FROM zdm.rollout_tables AS mine
            JOIN zdm.rollout_tables AS t USING (schema_name, table_name)
            JOIN zdm.module_migrations AS r ON r.id = t.rollout
            WHERE mine.rollout = NEW.id AND t.rollout <> NEW.id AND t.active
            ORDER BY t.schema_name, t.table_name LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'rollout % of % cannot start: %.% is being changed by rollout % of % on %, which is %',
                    NEW.id, NEW.migration, quote_ident(other.schema_name), quote_ident(other.table_name),
                    other.id, other.migration, other.target, other.state
                USING ERRCODE = 'unique_violation', CONSTRAINT = 'rollout_tables_active',
                      HINT = 'Complete that rollout, or roll it back.';
        END IF;
    END IF;
    UPDATE zdm.rollout_tables SET active = goes.active WHERE rollout = NEW.id AND active <> goes.active;
    RETURN NEW;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The lease: at most one zdm works on a rollout

CREATE TABLE zdm.leases (
    rollout     bigint PRIMARY KEY REFERENCES zdm.module_migrations ON DELETE CASCADE,
    token       uuid NOT NULL,
    holder      text NOT NULL,
    host        text NOT NULL,
    os_pid      integer NOT NULL,
    acquired_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE zdm.leases IS 'Who works on a rollout. Every working transaction locks its row FOR SHARE and compares the token, '
    'so a takeover waits for what is in flight, and whoever lost the lease cannot commit any more.';

CREATE TABLE zdm.lease_heartbeats (
    rollout       bigint PRIMARY KEY REFERENCES zdm.leases ON DELETE CASCADE,
    beat_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    backend_pid   integer,
    backend_start timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE zdm.lease_heartbeats IS 'The holder''s sign of life, apart from its token so that beats never touch the row that working transactions lock.';
COMMENT ON COLUMN zdm.lease_heartbeats.backend_pid IS 'The server process of the heartbeat''s connection: the holder is dead once it is gone. NULL behind a transaction pooler, where only time tells.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Steps

CREATE TABLE zdm.migration_steps (
    rollout     bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    step        text NOT NULL,
    position    integer NOT NULL,
    phase       text NOT NULL CHECK (phase IN ('preparation', 'migration', 'switchover', 'cleanup')),
    title       text NOT NULL,
    status      text NOT NULL DEFAULT 'pending' CHECK (status IN (
                    'pending',   -- never begun
                    'started',   -- begun; whether it took effect is to be probed
                    'finished',  -- done; for a transactional step, written by its own transaction
                    'failed',    -- begun, and an error was reported; a repeat starts it again
                    'undone')),  -- taken back by a rollback
    attempts    integer NOT NULL DEFAULT 0,
    started_at  timestamptz,
    finished_at timestamptz,
    error       text,
    action      jsonb NOT NULL,
    undo        jsonb NOT NULL,
    PRIMARY KEY (rollout, step),
    UNIQUE (rollout, position)
);
COMMENT ON TABLE zdm.migration_steps IS 'The steps of each rollout''s plan, and how far each got.';
COMMENT ON COLUMN zdm.migration_steps.started_at IS 'When the latest attempt began.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Backfills

CREATE TABLE zdm.data_migrations (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout      bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    schema_name  text NOT NULL,
    table_name   text NOT NULL,
    total_blocks bigint NOT NULL CHECK (total_blocks >= 0),
    status       text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'sweeping', 'finished')),
    pass_no      integer NOT NULL DEFAULT 1 CHECK (pass_no >= 1),
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    swept_rows   bigint NOT NULL DEFAULT 0,
    earlier_rows bigint NOT NULL DEFAULT 0,
    CHECK ((status = 'finished') = (finished_at IS NOT NULL)),
    UNIQUE (rollout, schema_name, table_name)
);
COMMENT ON TABLE zdm.data_migrations IS 'The backfill of each table of a rollout.';
COMMENT ON COLUMN zdm.data_migrations.pass_no IS 'Raised whenever the table is gone over again; verifications of an earlier pass no longer count.';
COMMENT ON COLUMN zdm.data_migrations.swept_rows IS 'Rows that the last look over the whole table still had to settle.';
COMMENT ON COLUMN zdm.data_migrations.earlier_rows IS 'Rows settled in earlier passes.';

CREATE TABLE zdm.data_migration_ranges (
    backfill   bigint NOT NULL REFERENCES zdm.data_migrations ON DELETE CASCADE,
    range_no   integer NOT NULL,
    relation   oid NOT NULL,
    file       oid NOT NULL,
    lo         bigint NOT NULL,
    next_block bigint NOT NULL,
    hi         bigint NOT NULL,
    rows_done  bigint NOT NULL DEFAULT 0,
    chunks     bigint NOT NULL DEFAULT 0,
    last_rows  bigint NOT NULL DEFAULT 0,
    last_at    timestamptz,
    left_rows  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (backfill, range_no),
    CHECK (lo >= 0 AND lo <= next_block AND next_block <= hi)
) WITH (fillfactor = 50);
COMMENT ON TABLE zdm.data_migration_ranges IS 'A contiguous range of blocks [lo, hi) for one worker. Blocks before next_block are done; the cursor commits with the chunk.';
COMMENT ON COLUMN zdm.data_migration_ranges.left_rows IS 'Whether rows may have been left before next_block, because somebody held them or an expression raised.';
COMMENT ON COLUMN zdm.data_migration_ranges.relation IS 'The table, or the partition of it, that the blocks are of.';
COMMENT ON COLUMN zdm.data_migration_ranges.file IS 'The file the block numbers are about; another one (VACUUM FULL, CLUSTER) starts over.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Verifications, gates, approvals

CREATE TABLE zdm.verifications (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout       bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    schema_name   text NOT NULL,
    table_name    text NOT NULL,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    rows_seen     bigint NOT NULL CHECK (rows_seen >= 0),
    mismatches    jsonb NOT NULL DEFAULT '{}',
    sample_keys   jsonb NOT NULL DEFAULT '{}',
    snapshot      text NOT NULL DEFAULT '',
    lsn           pg_lsn,
    authority     text NOT NULL CHECK (authority IN ('old', 'new')),
    backfill_pass integer,
    CHECK (started_at <= finished_at)
);
CREATE INDEX verifications_latest ON zdm.verifications (rollout, schema_name, table_name, started_at DESC);
COMMENT ON TABLE zdm.verifications IS 'Every comparison of both sides, over every row of one table.';
COMMENT ON COLUMN zdm.verifications.started_at IS 'Not later than the snapshot was taken.';
COMMENT ON COLUMN zdm.verifications.mismatches IS 'Number of rows by kind of mismatch.';
COMMENT ON COLUMN zdm.verifications.sample_keys IS 'A few keys by kind of mismatch, for people.';
COMMENT ON COLUMN zdm.verifications.snapshot IS 'pg_current_snapshot() of the comparison.';
COMMENT ON COLUMN zdm.verifications.backfill_pass IS 'The backfill''s pass that was finished before the comparison began; NULL if none was.';

CREATE SEQUENCE zdm.gate_evaluation;
CREATE TABLE zdm.gate_verdicts (
    evaluation bigint NOT NULL,
    rollout    bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    phase      text NOT NULL CHECK (phase IN ('preparation', 'migration', 'switchover', 'cleanup')),
    gate       text NOT NULL,
    answer     text NOT NULL CHECK (answer IN ('passed', 'refused', 'unreadable', 'skipped')),
    observed   text NOT NULL,
    threshold  text NOT NULL,
    remedy     text NOT NULL DEFAULT '',
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (evaluation, gate)
);
CREATE INDEX gate_verdicts_rollout ON zdm.gate_verdicts (rollout, evaluation);
ALTER SEQUENCE zdm.gate_evaluation OWNED BY zdm.gate_verdicts.evaluation;
COMMENT ON TABLE zdm.gate_verdicts IS 'Every answer of every gate; one evaluation asks all gates of a move.';

CREATE TABLE zdm.approvals (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout  bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    phase    text NOT NULL CHECK (phase IN ('preparation', 'migration', 'switchover', 'cleanup')),
    approver text NOT NULL CHECK (approver <> ''),
    checksum text NOT NULL,
    comment  text NOT NULL DEFAULT '',
    role     text NOT NULL DEFAULT session_user,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (rollout, phase, approver, checksum)
);
COMMENT ON TABLE zdm.approvals IS 'Who agreed to a phase of a rollout; each person counts once.';
COMMENT ON COLUMN zdm.approvals.checksum IS 'The content of the migration that was agreed to.';
COMMENT ON COLUMN zdm.approvals.role IS 'The database role that wrote it.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Rows whose up raised. Written by the sync triggers inside the application's transaction.

CREATE TABLE zdm.sync_failures (
    rollout    bigint NOT NULL,
    table_oid  oid NOT NULL,
    key        jsonb NOT NULL,
    group_name text NOT NULL,
    sqlstate   text NOT NULL,
    message    text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (rollout, table_oid, key, group_name)
);
COMMENT ON TABLE zdm.sync_failures IS 'Rows whose new side could not be derived. Cleared when the row is settled; the gates refuse while one is left. '
    'No foreign key: an application''s write must not lock rows of the catalog.';
COMMENT ON COLUMN zdm.sync_failures.key IS 'The row''s key columns and their values.';
COMMENT ON COLUMN zdm.sync_failures.group_name IS 'The group of columns that are mapped together.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Restore points and backups

CREATE TABLE zdm.rollback_points (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout    bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    phase      text NOT NULL CHECK (phase IN ('preparation', 'migration', 'switchover', 'cleanup')),
    name       text NOT NULL,
    lsn        pg_lsn,
    detail     jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (rollout, name)
);
COMMENT ON TABLE zdm.rollback_points IS 'Points that a rollout, or the whole server, can be taken back to.';

CREATE TABLE zdm.migration_backups (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout     bigint NOT NULL REFERENCES zdm.module_migrations ON DELETE CASCADE,
    kind        text NOT NULL,
    location    text NOT NULL,
    bytes       bigint,
    checksum    text,
    status      text NOT NULL DEFAULT 'started' CHECK (status IN ('started', 'finished', 'failed', 'expired')),
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    verified_at timestamptz,
    detail      jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE zdm.migration_backups IS 'Backups taken for a rollout.';
COMMENT ON COLUMN zdm.migration_backups.location IS 'Where it lies, without secrets.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Events: what happened, in order, for good

CREATE TABLE zdm.events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind        text NOT NULL,
    rollout     bigint,
    migration   text,
    subject     text NOT NULL DEFAULT '',
    from_state  text,
    to_state    text,
    detail      jsonb NOT NULL DEFAULT '{}',
    actor       text NOT NULL DEFAULT session_user,
    application text NOT NULL DEFAULT current_setting('application_name')
);
CREATE INDEX events_rollout ON zdm.events (rollout, id);
COMMENT ON TABLE zdm.events IS 'Append-only history: every change of state, by trigger, and what zdm adds explicitly. No foreign keys: it outlives what it tells of.';
COMMENT ON COLUMN zdm.events.kind IS 'What changed: rollout, step, backfill, verification, gate, approval, migration, lease, setting, target, backup, rollback_point, or an explicit kind.';
COMMENT ON COLUMN zdm.events.subject IS 'Which one: the step''s id, the table''s name, the gate …';

CREATE FUNCTION zdm.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_RELID::regclass, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON zdm.events
    FOR EACH STATEMENT EXECUTE FUNCTION zdm.refuse_change();
ALTER TABLE zdm.events ENABLE ALWAYS TRIGGER append_only;

-- record_event(kind, subject columns separated by '.', state column or '', columns to leave out separated by ',')
CREATE FUNCTION zdm.record_event() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before   jsonb := to_jsonb(OLD);
    after    jsonb := to_jsonb(NEW);
    image    jsonb := coalesce(after, before);
    told     text;
BEGIN
    SELECT string_agg(image ->> part, '.' ORDER BY n) INTO told
        FROM unnest(string_to_array(TG_ARGV[1], '.')) WITH ORDINALITY AS p (part, n);
    INSERT INTO zdm.events (kind, rollout, migration, subject, from_state, to_state, detail)
    VALUES (
        TG_ARGV[0],
        CASE TG_TABLE_NAME WHEN 'module_migrations' THEN image ->> 'id' ELSE image ->> 'rollout' END::bigint,
        CASE TG_TABLE_NAME WHEN 'schema_migrations' THEN image ->> 'id' ELSE image ->> 'migration' END,
        coalesce(told, ''),
        before ->> TG_ARGV[2],
        after ->> TG_ARGV[2],
        jsonb_build_object('op', lower(TG_OP))
            || jsonb_strip_nulls(image - string_to_array(TG_ARGV[3], ',') - 'rollout' - 'migration' - TG_ARGV[2]));
    RETURN NULL;
END $$;

CREATE TRIGGER legal_move BEFORE INSERT OR UPDATE OF state ON zdm.module_migrations
    FOR EACH ROW EXECUTE FUNCTION zdm.move_rollout();
ALTER TABLE zdm.module_migrations ENABLE ALWAYS TRIGGER legal_move;

CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.module_migrations
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('rollout', 'migration.target', 'state', 'plan,id');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.schema_migrations
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('migration', 'id', 'checksum', 'source,up_sql,down_sql');
CREATE TRIGGER event AFTER UPDATE OR DELETE ON zdm.migration_steps
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('step', 'step', 'status', 'step,action,undo,title');
-- Once a chunk would be too often: cursors are in another table, and this one changes only with its status or its pass.
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.data_migrations
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('backfill', 'schema_name.table_name', 'status', 'id,schema_name,table_name');
CREATE TRIGGER event AFTER INSERT OR DELETE ON zdm.verifications
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('verification', 'schema_name.table_name', '', 'id,schema_name,table_name');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.gate_verdicts
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('gate', 'phase.gate', 'answer', 'gate');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.approvals
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('approval', 'phase', 'approver', 'id,phase');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.leases
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('lease', 'rollout', 'holder', '');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.settings
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('setting', 'name', 'value', 'name');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.targets
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('target', 'name', 'schema_name', 'name');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.rollback_points
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('rollback_point', 'name', '', 'id,name');
CREATE TRIGGER event AFTER INSERT OR UPDATE OR DELETE ON zdm.migration_backups
    FOR EACH ROW EXECUTE FUNCTION zdm.record_event('backup', 'kind', 'status', 'id,kind');

DO $$
DECLARE
    named text;
BEGIN
    FOREACH named IN ARRAY ARRAY['module_migrations', 'schema_migrations', 'migration_steps', 'data_migrations', 'verifications',
        'gate_verdicts', 'approvals', 'leases', 'settings', 'targets', 'rollback_points', 'migration_backups']
    LOOP
        EXECUTE format('ALTER TABLE zdm.%I ENABLE ALWAYS TRIGGER event', named);
    END LOOP;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA zdm FROM PUBLIC;
