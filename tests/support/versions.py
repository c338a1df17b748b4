"""Running a test on more than one major version of PostgreSQL."""

from __future__ import annotations

from typing import Final

import pytest

#: The other version that chosen tests run on, where it is installed: an old one that is still supported.
OLD: Final = 15

#: Run a test that uses ``database`` (or ``server``) on the default server and on PostgreSQL 15.
#: The latter is skipped where it is not installed.
on_all_versions = pytest.mark.parametrize(
    "server",
    ["default", pytest.param("pg15", marks=pytest.mark.pg15)],
    indirect=True,
)

#: The same where the mechanism is one that other tests show on both versions: on PostgreSQL 15 in the soak test alone, because `make test` has to stay short.
on_all_versions_at_length = pytest.mark.parametrize(
    "server",
    ["default", pytest.param("pg15", marks=[pytest.mark.pg15, pytest.mark.soak])],
    indirect=True,
)
