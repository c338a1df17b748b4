"""Schema dumps, normalised, so that two databases can be compared by what they promise and not by how they came about."""

from __future__ import annotations

import re
import subprocess

from tests.support.servers import Database

_LISTS = (
    re.compile(r"^(CREATE STATISTICS .*? ON )(.*)( FROM [^ ]+;)$", re.MULTILINE),
    re.compile(r"^(ALTER PUBLICATION .*? ADD TABLE ONLY [^ ]+ \()(.*?)(\).*;)$", re.MULTILINE),
)
_TABLE = re.compile(r"^(CREATE (?:UNLOGGED )?TABLE [^\n]* \(\n)(.*?)(\n\)[^\n]*;)$", re.MULTILINE | re.DOTALL)


def dump(database: Database) -> list[str]:
    """The lines of the whole schema as pg_dump writes it, without zdm's own schemas, normalised.

    The order of a table's columns is the one thing that a new column may change: columns are listed by name, also where the
    server lists them by number (statistics, publications). The generated
    names of NOT NULL constraints (PostgreSQL 18) follow the column's first name, and count for nothing.
    """
    dev = database.server.dev
    program = str(dev.bin("pg_dump")) if dev is not None else "pg_dump"
    text = subprocess.run(
        [
            program,
            "--schema-only",
            "--exclude-schema=zdm",
            "--exclude-schema=public_*",
            f"--dbname={database.dsn}",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # pg_dump of recent versions writes a random key into \restrict.
    lines = [line for line in text.splitlines() if line and not line.startswith(("\\", "--"))]
    found = _TABLE.sub(_sorted, "\n".join(lines))
    for lists in _LISTS:
        found = lists.sub(lambda m: m[1] + ", ".join(sorted(m[2].split(", "))) + m[3], found)
    return re.sub(r" CONSTRAINT \S+ NOT NULL", " NOT NULL", found).splitlines()


def _sorted(table: re.Match[str]) -> str:
    entries = sorted(line.rstrip(",") for line in table[2].split("\n"))
    return table[1] + ",\n".join(entries) + table[3]
