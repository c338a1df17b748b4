"""What tests of every kind share: servers, databases, writers, scripted sessions."""

from __future__ import annotations

from tests.support.interleave import DEADLINE, Isolation, Pending, Rows, Scene, Session, eventually
from tests.support.servers import Connection, Database, Server
from tests.support.versions import on_all_versions
from tests.support.writers import Report, WriteError, WriterReport, Writers

__all__ = [
    "DEADLINE",
    "Connection",
    "Database",
    "Isolation",
    "Pending",
    "Report",
    "Rows",
    "Scene",
    "Server",
    "Session",
    "WriteError",
    "WriterReport",
    "Writers",
    "eventually",
    "on_all_versions",
]
