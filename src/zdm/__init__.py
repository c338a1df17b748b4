"""zdm: zero-downtime schema migrations for PostgreSQL."""

from __future__ import annotations

#: The release, kept here as a literal (a test holds it equal to pyproject.toml) because reading the
#: installed metadata costs more than importing everything else that ``zdm --version`` needs.
__version__ = "0.1.0"
