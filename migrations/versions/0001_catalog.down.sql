-- Takes the catalog away, history included. Refused while a rollout is under way: its triggers and views would be orphaned.
DO $$
DECLARE
    found text;
BEGIN
    SELECT string_agg(format('%s on %s (%s)', r.migration, r.target, r.state), ', ' ORDER BY r.id) INTO found
        FROM zdm.module_migrations AS r JOIN zdm.phase_states AS s USING (state) WHERE s.active;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'the catalog cannot be removed while rollouts are under way: %', found
            USING ERRCODE = 'object_in_use', HINT = 'Complete them, or roll them back.';
    END IF;
END $$;

DROP TABLE zdm.migration_backups, zdm.rollback_points, zdm.sync_failures, zdm.approvals, zdm.gate_verdicts,
    zdm.verifications, zdm.data_migration_ranges, zdm.data_migrations, zdm.migration_steps, zdm.lease_heartbeats,
    zdm.leases, zdm.rollout_tables, zdm.module_migrations, zdm.schema_migrations, zdm.phase_moves, zdm.phase_states,
    zdm.targets, zdm.settings, zdm.events;
DROP FUNCTION zdm.record_event(), zdm.refuse_change(), zdm.move_rollout();
