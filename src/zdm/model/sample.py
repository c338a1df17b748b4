"""A scenario: what the conformance suite needs to try an operation. Each operation carries one."""

from __future__ import annotations

from zdm.model.names import Value
from zdm.model.row_mapping import SyncMode


class Scenario(Value):
    """A sample schema, rows, and what each version of the application does to it while the rollout runs.

    All SQL is run with ``search_path`` set to the target schema (``setup`` and ``old_writes``) or to the new version's
    schema followed by the target (``new_writes``). ``{n}`` in a write is replaced by a running number, distinct for each
    execution, so that writers insert and update distinct and shared rows; other braces are doubled (`str.format`).

    Parameters
    ----------
    setup: DDL and rows before the rollout (a few hundred rows: use generate_series).
    operations: the migration's operations, as in the migration file.
    old_writes / new_writes: statements of the old and the new application; every one must succeed in every phase it lives in.
    old_reads / new_reads: queries that must succeed for that version of the application in every phase it lives in.
    agree: a query of one boolean over the *new* version's schema and the target that must be true while both sides exist
        and everything is backfilled; empty if the operation maps no rows.
    after: a query of one boolean that must be true after cleanup, over the target schema.
    replans: cleanup changes the type of a result that statements of the new version return, so that a statement which a
        session has prepared fails once with 0A000, as it does after any ALTER TYPE.
    sync: how rows of two tables are kept in step.
    """

    setup: str
    operations: tuple[dict[str, object], ...]
    old_writes: tuple[str, ...] = ()
    new_writes: tuple[str, ...] = ()
    old_reads: tuple[str, ...] = ()
    new_reads: tuple[str, ...] = ()
    agree: str = ""
    after: str = ""
    replans: bool = False
    sync: SyncMode = SyncMode.IMMEDIATE
