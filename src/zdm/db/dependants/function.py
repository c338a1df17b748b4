"""A function with an SQL-standard body (BEGIN ATOMIC) reads the successor from the swap on: CREATE OR REPLACE, in its transaction.

The server stores such a body parsed, so it depends on the column. Until the swap it reads the old column, which is kept in
step. Replaced, it stays the same function: whatever uses it, its owner and its rights are left alone.
"""

from __future__ import annotations

from zdm.db.dependants.clones import CannotFollowError, Clones
from zdm.db.session import Connection, fetch_value
from zdm.model.requests import Follow, FollowRequest

_FACTS = """
SELECT p.prosqlbody IS NOT NULL, pg_has_role(p.proowner, 'USAGE'), pg_get_userbyid(p.proowner) FROM pg_proc p WHERE p.oid = %s
"""


def follow_function(conn: Connection, request: FollowRequest) -> Follow:
    """The function's definition over the successors."""
    row = conn.execute(_FACTS, (request.oid,)).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    body, ours, owner = row
    if not body:
        raise CannotFollowError("it does not name the column in its body")
    if not ours:
        raise CannotFollowError(f"it belongs to {owner}, and the connected role is not a member of it")
    clones = Clones.of(conn, request.replaced)
    old = fetch_value(conn, "SELECT pg_get_functiondef(%s::oid)", (request.oid,))
    clones.reading_copies()
    # In the transaction that is rolled back; nobody else sees it.
    conn.execute(old.encode())
    clones.rename(request.replaced)
    new = fetch_value(conn, "SELECT pg_get_functiondef(%s::oid)", (request.oid,))
    return Follow(on=request.table, swap=clones.under_path(new))
