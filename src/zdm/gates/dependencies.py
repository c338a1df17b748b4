"""Are the migrations this one depends on complete here?"""

from __future__ import annotations

from typing import ClassVar

from zdm.gates.base import Gate, enumerated
from zdm.gates.context import GateContext
from zdm.model.names import sql_name
from zdm.model.phases import State
from zdm.model.verdict import Verdict


class Dependencies(Gate):
    """Every migration in ``depends_on`` is completed on the same target."""

    name: ClassVar[str] = "dependencies"
    asks: ClassVar[str] = "Are the migrations this one depends on complete on this target?"

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Passes at once where nothing is depended on."""
        wanted = ctx.migration.depends_on
        if not wanted:
            return self.passed("depends on no other migration", "every migration of depends_on completed")
        threshold = f"completed on {sql_name(ctx.rollout.target)}: {', '.join(wanted)}"
        states = ctx.facts.dependency_states(wanted)
        missing = [name for name in wanted if states.get(name) is not State.COMPLETED]
        if not missing:
            return self.passed("all completed", threshold)
        seen = [f"{name} is {_words(states.get(name))}" for name in missing]
        return self.refused(
            enumerated(seen, limit=5), threshold, f"Run `zdm advance {missing[0]}` until it is completed."
        )


def _words(state: State | None) -> str:
    return "not rolled out here" if state is None else state.value.replace("_", " ")
