"""The phase machine as a picture: pure. docs/state-machine.md holds what it gives, and a test holds the two equal."""

from __future__ import annotations

from zdm.model.phases import PhaseMachine, State


def state_diagram(machine: PhaseMachine) -> str:
    """A Mermaid state diagram with one arrow for each legal move, labelled with what makes it, in the machine's order."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PLANNED}"]
    lines += [f"    {source} --> {end}: {_cause(machine, source, end)}" for source, end in machine.moves()]
    lines.append(f"    {State.COMPLETED} --> [*]")
    return "\n".join(lines)


def _cause(machine: PhaseMachine, source: State, end: State) -> str:
    """What makes the move, in few words."""
    if end is State.ROLLING_BACK:
        return "rollback" if source is not State.ROLLBACK_FAILED else "rollback again"
    if source is State.ROLLED_BACK:
        return "advance --restart"
    if end is State.ROLLBACK_FAILED:
        return "an undo failed"
    if end is State.ROLLED_BACK:
        return "all undone"
    for definition in machine.definitions:
        if end is definition.running:
            return (
                "advance again" if source is definition.failed else f"advance, {definition.phase} gates pass"
            )
        if (source, end) == (definition.running, definition.failed):
            return "a step failed"
    return "all steps done"
