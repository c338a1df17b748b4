"""PostgreSQL servers of our own, for the demo, the tests, and a newcomer without a database.

:class:`DevServer` runs the server programs directly, as an unprivileged account, in a directory of its own.
"""

from __future__ import annotations

from zdm.devdb.binaries import Binaries, find_binaries, read_binaries
from zdm.devdb.endpoint import SUPERUSER
from zdm.devdb.replica import Replica, replica_of
from zdm.devdb.server import DevServer, Setting

__all__ = [
    "SUPERUSER",
    "Binaries",
    "DevServer",
    "Replica",
    "Setting",
    "find_binaries",
    "read_binaries",
    "replica_of",
]
