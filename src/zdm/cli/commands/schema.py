"""``zdm schema``"""

from __future__ import annotations

from zdm.cli.command import command as declare
from zdm.cli.run import Run, write_json


@declare(
    example="""
    zdm schema > migration.schema.json
    """
)
def schema(run: Run) -> None:
    """Print the JSON Schema of the migration file, for editors that complete and check while you type.

    In the file itself: "# yaml-language-server: $schema=migration.schema.json". Needs no database.
    """
    from zdm.cli.gates import gates_schema
    from zdm.operations.schema import migration_schema

    del run  # the same with and without --json
    write_json(migration_schema(gates_schema()))


command = schema
