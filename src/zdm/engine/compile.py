"""From a migration and the schema as it stands to a `Plan`: everything is checked here, before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from zdm.backfill.table import may_silence
from zdm.db.carry import carry
from zdm.db.dependants import follow
from zdm.db.dependants.under_lock import Allowance
from zdm.db.dependants.views import recreate
from zdm.db.introspect import read_tables
from zdm.db.mentions import functions_that_mention, functions_that_mention_table
from zdm.db.new_indexes import spell_indexes
from zdm.db.session import Session
from zdm.engine.closing import closable
from zdm.engine.column_measure import measure_columns
from zdm.engine.element_measure import measure_elements
from zdm.engine.estimates import estimate_plan
from zdm.engine.mapper import Mapper
from zdm.engine.orphans import measure_orphans
from zdm.engine.parent_mapper import measure_parents
from zdm.engine.promises import find_promises
from zdm.engine.reference_mapper import refer
from zdm.engine.row_mapper import row_mappings
from zdm.engine.row_measure import measure_rows
from zdm.engine.row_steps import row_steps
from zdm.engine.shadow_check import try_shadow
from zdm.engine.swap import swap_steps
from zdm.engine.table_steps import table_steps
from zdm.engine.union_mapper import measure_union
from zdm.engine.version_views import view_steps
from zdm.errors import Problem
from zdm.model.hanging import Hanging, going, hanging_on
from zdm.model.mapping import Expose, TableMapping
from zdm.model.names import QualifiedName, fit, sql_name
from zdm.model.plan import Plan, TableFacts
from zdm.model.step import Phase, Step
from zdm.operations import fidelity
from zdm.operations.base import Context, Draft, readable_names
from zdm.operations.migration import Migration


def compile_plan(
    conn: Session,
    migration: Migration,
    target: str,
    *,
    previous_schemas: Sequence[str] = (),
    measure: bool = True,
    workers: int = 1,
    lock_budget: timedelta = timedelta(milliseconds=100),
) -> Plan:
    """Compile `migration` for the schema `target`. Reads only: whatever it creates to ask the server is rolled back.

    Parameters
    ----------
    previous_schemas: version schemas that completed rollouts of this target have left; they are this rollout's old version.
    measure: try mappings and constraints on real rows, and estimate what it all will cost.
    workers: of the backfill, for the estimate.
    lock_budget: how long the swap may build what can only be built there.

    Raises
    ------
    BadInput: with every problem found; nothing was changed.
    """
    server = conn.info.server_version
    draft = Draft(
        target=target,
        migration=migration.id,
        server_version=server,
        expose=migration.expose,
        dependents=migration.dependents,
        sync=migration.sync,
    )
    named = {name for operation in migration.operations for name in operation.tables()}
    tables = read_tables(conn, readable_names(named, target))
    draft.tables = dict(tables)
    draft.silences = any(table.rules for table in tables.values()) and may_silence(conn)
    parts = {p.name for table in tables.values() for p in table.partitions if p.own or p.triggers}
    draft.part_tables = read_tables(conn, sorted(parts, key=str))
    read = [*tables.values(), *draft.part_tables.values()]
    pointing = {k.references for table in read for k in table.referenced_by if k.references is not None}
    draft.neighbours = read_tables(conn, sorted(pointing - tables.keys() - parts, key=str))
    draft.own_views = _views_in(conn, previous_schemas)
    mapper = Mapper(conn, migration, target, draft)
    mapper.apply()
    mappings = {name: mapper.mapping(shape) for name, shape in draft.shapes.items()}
    # Every expression is asked about before anything fails, so that all that is wrong with them is told in one run.
    rows = row_mappings(mapper, mappings.values()) if mapper.typed else ()
    expressions = mapper.requested() if mapper.typed else {}
    mapper.fail_with(lambda: _cannot_follow(conn, draft, Allowance(lock_budget if measure else None)))
    mappings, rows = refer(mapper, mappings, rows)
    if measure:
        measure_columns(mapper, mappings)
        for found, asked in zip(rows, draft.rows, strict=True):
            if found.parent is not None:
                measure_parents(mapper, found)
            elif found.elements is not None:
                measure_elements(mapper, found)
            else:
                measure_rows(mapper, found, lossy=asked.lossy)
                measure_union(mapper, found)
            measure_orphans(mapper, found, asked)
        mapper.fail()
    # The session's own prelude makes the migration's types, so none is passed on.
    shadows = draft.shadows.values()
    allowance = Allowance(lock_budget if measure else None)
    asked_for = [*draft.carries, *(r for shadow in shadows for r in shadow.carries)]
    carried, problems = carry(conn, asked_for, allowance)
    if not problems:
        problems = [
            problem for shadow in shadows for problem in try_shadow(conn, shadow, carried, measure=measure)
        ]
    followed, more = follow(conn, draft.follows, allowance)
    recreation, last = recreate(conn, draft.recreate)
    mapper.problems += problems + more + last
    mapper.findings += fidelity.told(draft, recreation) + fidelity.kept_casts(draft, carried)
    mapper.findings += fidelity.mentioned(
        draft, functions_that_mention(conn, fidelity.replaced_columns(draft))
    ) + fidelity.mentioned_tables(draft, functions_that_mention_table(conn, fidelity.gone_tables(draft)))
    mapper.fail()
    context = [
        Context(
            draft,
            mappings,
            f"{position}:{operation.kind}",
            expressions,
            carried,
            followed,
            recreation,
            closable(rows),
        )
        for position, operation in enumerate(migration.operations, 1)
    ]
    asked_indexes = [
        request
        for operation, seen in zip(migration.operations, context, strict=True)
        for request in operation.indexes(seen)
    ]
    spelled, problems = spell_indexes(conn, asked_indexes, [target, "public"])
    carried |= spelled
    mapper.problems += problems
    mapper.fail()
    promises, findings, problems = find_promises(conn, migration, context, mappings, measure=measure)
    mapper.findings += findings
    mapper.problems += problems
    mapper.fail()
    old_schema, new_schema = version_schemas(migration, target)
    # What is referred to comes first, wherever tables are gone through one after the other.
    mapped = tuple(sorted(mappings.values(), key=lambda mapping: mapping.depth))
    # An earlier version that shows none of these tables stays: its applications have nothing to do with this rollout.
    previous_schemas = _schemas_showing(conn, previous_schemas, [mapping.oid for mapping in mapped])
    mapper.problems += _same_names(migration, draft, mapped)
    mapper.fail()
    plan = Plan(
        migration=migration.id,
        target=target,
        server_version=server,
        old_schema=old_schema,
        new_schema=new_schema,
        previous_schemas=tuple(previous_schemas),
        mappings=mapped,
        row_mappings=rows,
        findings=tuple(dict.fromkeys(mapper.findings)),
        facts=tuple(TableFacts(table=t.name, rows=t.rows, bytes=t.bytes) for t in draft.tables.values()),
        roundtrips=tuple(mapper.roundtrips),
        promises=tuple(promises),
    )
    hanging = [
        Hanging(table=mapping.table, what=what, digest=digest)
        for mapping in mapped
        if mapping.table in draft.tables
        for what, digest in hanging_on(draft.tables[mapping.table], going(mapping), draft.own_views).items()
    ]
    plan = plan.model_copy(update={"hanging": tuple(hanging)})
    # Of one stage and turn those of rows come first: their functions go before the tables whose rows they take.
    steps: list[Step] = [step for found in rows for step in row_steps(found, _added(mapped, found.new.table))]
    for phase in Phase:
        for operation, seen in zip(migration.operations, context, strict=True):
            steps += operation.plan(phase, seen)
        steps += fidelity.plan(phase, context[0])
    for mapping in mapped:
        steps += table_steps(
            mapping,
            promised=bool(plan.promised(mapping.table)),
            rows=rows,
            unprepared=fidelity.unprepared(mapping.table, context[0]),
        )
    steps += view_steps(plan, draft)
    steps += swap_steps(plan, context[0], previous_schemas)
    order = {phase: number for number, phase in enumerate(Phase)}
    steps.sort(key=lambda step: (order[step.phase], step.stage, step.turn))
    plan = plan.model_copy(update={"steps": tuple(steps)})
    return plan.model_copy(update={"estimates": estimate_plan(conn, plan, workers)}) if measure else plan


def _added(mapped: Sequence[TableMapping], table: QualifiedName) -> list[str]:
    """The columns that a table has in the new version only."""
    return [
        column.physical
        for mapping in mapped
        if mapping.table == table
        for column in mapping.new_columns
        if column.physical not in {before.physical for before in mapping.old_columns}
    ]


def _cannot_follow(conn: Session, draft: Draft, allowance: Allowance) -> list[Problem]:
    """What the server says against what hangs on replaced columns: each would else be told in a run of its own."""
    _, problems = carry(conn, draft.carries, allowance)
    _, more = follow(conn, draft.follows, allowance)
    _, last = recreate(conn, draft.recreate)
    return problems + more + last


def version_schemas(migration: Migration, target: str) -> tuple[str, str]:
    """The names of the old and the new version's schemas; empty where the migration exposes columns."""
    if migration.expose is Expose.COLUMNS:
        return "", ""
    return fit(f"{target}_before_{migration.id}"), fit(f"{target}_{migration.id}")


def _same_names(migration: Migration, draft: Draft, mapped: Sequence[TableMapping]) -> list[Problem]:
    """A version's schema shows tables by their bare names, so two of one name from different schemas have no place in it."""
    if migration.expose is Expose.COLUMNS:
        return []
    old = [(m.table.name, m.table) for m in mapped]
    new = [(m.final_name, m.table) for m in mapped if not m.dropped_in_new]
    new += [(name.name, name) for name in draft.created]
    problems: dict[str, Problem] = {}
    for shown in (old, new):
        for name in dict.fromkeys(name for name, _ in shown):
            tables = [str(table) for other, table in shown if other == name]
            if len(tables) > 1:
                problems[name] = Problem(
                    f"{' and '.join(tables)} would both be shown as {sql_name(name)} in the schema of one version",
                    remedy="Put them into migrations of their own.",
                )
    return list(problems.values())


def _schemas_showing(conn: Session, schemas: Sequence[str], tables: Sequence[int]) -> list[str]:
    """Those of `schemas` in which a view shows one of the tables."""
    rows = conn.execute(
        """SELECT DISTINCT n.nspname FROM pg_catalog.pg_depend d
           JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
             AND d.refobjid = ANY (%s::oid[]) AND n.nspname = ANY (%s)""",
        [list(tables), list(schemas)],
    )
    found = {row[0] for row in rows}
    return [schema for schema in schemas if schema in found]


def _views_in(conn: Session, schemas: Sequence[str]) -> set[str]:
    """The views of earlier version schemas, as introspection names them."""
    rows = conn.execute(
        """SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY (%s) AND c.relkind = 'v'""",
        [list(schemas)],
    )
    return {row[0] for row in rows}
