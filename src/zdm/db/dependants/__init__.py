"""How what hangs on a replaced column follows it, one file per kind: complete statements, spelled by the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import psycopg

from zdm.db.dependants.clones import CannotFollowError
from zdm.db.dependants.function import follow_function
from zdm.db.dependants.generated import follow_generated, too_long
from zdm.db.dependants.policy import follow_policy
from zdm.db.dependants.publication import follow_publication
from zdm.db.dependants.rule import follow_rule
from zdm.db.dependants.statistics import follow_statistics
from zdm.db.dependants.trigger import follow_trigger
from zdm.db.dependants.under_lock import Allowance, TooLongUnderLockError
from zdm.db.session import Connection, transaction
from zdm.errors import Problem
from zdm.model.requests import Follow, FollowRequest

_Follows = Callable[[Connection, FollowRequest], Follow]

_KINDS: Final[Mapping[str, _Follows]] = {
    "statistics": follow_statistics,
    "policy": follow_policy,
    "trigger": follow_trigger,
    "publication": follow_publication,
    "function": follow_function,
    "rule": follow_rule,
}
_REMEDIES: Final[Mapping[str, str]] = {
    "statistics": "DROP STATISTICS {name} first, and create the ones you want on the new column after cleanup.",
    "policy": "Write the policy so that it suits both types, or without the column, before the rollout.",
    "trigger": "Create the trigger again without naming the column, and let its function decide.",
    "publication": "Take the column out of the publication's column list or row filter.",
    "function": "Put the function's body into quotes, so that it is parsed when it runs, or drop it before the rollout.",
    "rule": "Drop the rule, and use a trigger instead, which sees rows and not statements; or switch it off until cleanup (ALTER TABLE … "
    "DISABLE RULE …).",
    "generated column": "Drop the generated column in an earlier migration; add it again after cleanup.",
}


def follow(
    conn: Connection, requests: Sequence[FollowRequest], allowance: Allowance | None = None
) -> tuple[dict[str, Follow], list[Problem]]:
    """Let the server say how each dependant follows, and name those that cannot. Nothing is left in the database.

    Parameters
    ----------
    allowance: what the swap may do under lock.
    """
    kinds: dict[str, _Follows] = {**_KINDS}
    kinds["generated column"] = partial(follow_generated, allowance=allowance or Allowance())
    found: dict[str, Follow] = {}
    problems: list[Problem] = []
    if not requests:
        return found, problems
    with transaction(conn, rollback=True):
        for request in requests:
            try:
                with conn.transaction(force_rollback=True):
                    found[request.key] = kinds[request.kind](conn, request)
            except TooLongUnderLockError as error:
                problems.append(too_long(request, str(error)))
            except CannotFollowError as error:
                problems.append(_refusal(request, str(error)))
            except psycopg.Error as error:
                if error.sqlstate is None or error.sqlstate[:2] in {"08", "57", "58", "XX"}:
                    raise
                problems.append(_refusal(request, (error.diag.message_primary or str(error)).strip()))
    return found, problems


def _refusal(request: FollowRequest, why: str) -> Problem:
    return Problem(
        f"the {request.kind} {request.name} of {request.table} cannot follow the replaced column: {why}",
        where=request.where,
        remedy=_REMEDIES[request.kind].format(name=request.name),
        rule="cannot-be-carried",
    )
