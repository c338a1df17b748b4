from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Database
from zdm.db.session import Session, connect


@pytest.fixture
def conn(database: Database) -> Iterator[Session]:
    """A connection as zdm makes it."""
    with connect(database.dsn, application_name="zdm test") as session:
        yield session
