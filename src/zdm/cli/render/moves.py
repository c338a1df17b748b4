"""What a move did or would do: gates, steps, what comes next, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zdm.cli.render.text import (
    bad,
    careful,
    faint,
    good,
    heading,
    indented,
    joined,
    number,
    plural,
    seconds,
    size,
    table,
    wrapped,
)
from zdm.model.names import sql_name

if TYPE_CHECKING:
    from zdm.engine.results import (
        AdvanceResult,
        BackfillResult,
        PreviewStep,
        Reconciled,
        ReconcileResult,
        RollbackResult,
        RowWithoutOldForm,
        TableVerification,
        VerifyResult,
    )
    from zdm.model.step import TableLock
    from zdm.model.verdict import Verdict

_ANSWERS = {
    "passed": good("ok"),
    "refused": bad("REFUSED"),
    "unreadable": bad("UNREADABLE"),
    "skipped": careful("skipped"),
}


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Every gate with what it saw and what it wants; the remedy below each that refuses."""
    if not verdicts:
        return ""
    rows = [(_ANSWERS[v.answer.value], v.gate, v.observed, v.threshold) for v in verdicts]
    text = table(rows, ("", "gate", "found", "needed"))
    remedies = [
        wrapped(v.remedy, first=f"{v.gate}: ", indent=2) for v in verdicts if v.remedy and not v.lets_through
    ]
    return text + ("\n" + heading("What to do") + "\n" + "\n".join(remedies) if remedies else "")


def advance_text(result: AdvanceResult) -> str:
    """The end of a move: what is reached, what is next, whether there is a way back."""
    if result.outcome.value == "nothing":
        return f"{result.rollout} is {state_words(result.state.value)}; nothing is left to do."
    if result.outcome.value == "refused":
        return f"{result.rollout} stays {state_words(result.state.value)}."
    done = [*result.earlier, result]
    took = sum(move.seconds for move in done)
    names = ", ".join(move.phase.value for move in done)
    lines = [
        good(f"{result.rollout} is {state_words(result.state.value)}") + f" ({names} took {seconds(took)})."
    ]
    lines.append(
        next_text(result.rollout, result.next_phase.value if result.next_phase else "", result.can_return)
    )
    advice = applications(result.phase.value, result.target, result.old_schema, result.new_schema)
    lines.append(wrapped(advice, indent=0, first="Applications: "))
    return "\n".join(lines)


def next_text(rollout: str, next_phase: str, can_return: bool, *, begun: bool = False) -> str:
    """What can be done now, forwards and backwards; `begun` if the phase is the one that was interrupted or runs."""
    verb = "continues" if begun else "runs"
    forwards = (
        f"Next: `zdm advance {rollout}` {verb} {next_phase}."
        if next_phase
        else "Next: nothing; no phase follows."
    )
    backwards = (
        f"Way back: `zdm rollback {rollout}`, with no row lost."
        if can_return
        else "Way back: none from here."
    )
    return f"{forwards}\n{backwards}"


def applications(phase: str, target: str, old: str, new: str) -> str:
    """What applications may or must do once a phase is done.

    With version schemas a version is chosen by its `search_path`; without, by the columns it uses.
    """
    target, old, new = (name and sql_name(name) for name in (target, old, new))
    if phase == "preparation":
        if new:
            return (
                f"the old version runs on as it is. The new version may be deployed beside it and write through {new} "
                f"(search_path {new}, {target}); its reads stay with the old structure until the migration phase is "
                "done, because rows are not filled yet."
            )
        return (
            "the old version runs on as it is. The new version may be deployed beside it and write the new columns; "
            "its reads stay with the old ones until the migration phase is done, because rows are not filled yet."
        )
    if phase == "migration":
        which = f" through {old} and {new}" if new else ""
        return f"both versions may read and write{which}; every row is kept in step."
    if phase == "switchover":
        where = f" (search_path {new}, {target})" if new else ""
        return (
            f"move all reads to the new version{where}, then take the old version out of service. "
            "Until cleanup it may come back."
        )
    return "only the new version is left."


def state_words(state: str) -> str:
    """A state as people say it."""
    return state.replace("_", " ")


def lock_words(lock: TableLock) -> str:
    """``AccessExclusive on public.t, brief``."""
    hold = {"brief": "brief", "scan": "while it reads the table", "rewrite": "while it rewrites the table"}[
        lock.hold
    ]
    return f"{lock.mode.value} on {lock.table}, {hold}"


def preview_text(rollout: str, steps: Sequence[PreviewStep]) -> str:
    """The dry run: the exact SQL, the lock of each step, the estimate."""
    if not steps:
        return f"{rollout}: no step is left to run."
    phase = steps[0].phase
    blocks = [heading(f"Dry run of phase {phase.number}, {phase.value}, of {rollout}: nothing is changed")]
    for position, step in enumerate(steps, 1):
        head = f"[{position}/{len(steps)}] {heading(step.title)}" + (
            faint("  (done before, is skipped)") if step.done else ""
        )
        facts = [step.kind]
        facts += [lock_words(lock) for lock in step.locks] or ["no table lock"]
        cost = f"about {seconds(step.seconds)}" if step.seconds is not None else "time unknown"
        if step.rows is not None and step.rows >= 0:
            cost += f", {number(step.rows)} rows"
        if step.bytes is not None:
            cost += f", {size(step.bytes)}"
        lines = [head, *(f"      {fact}" for fact in facts), f"      {cost}"]
        if step.statements:
            lines += ["", _statements(step.statements)]
        blocks.append("\n".join(lines))
    return joined(blocks)


def undo_text(rollout: str, steps: Sequence[PreviewStep]) -> str:
    """The dry run of the way back. Steps that have nothing to undo are only counted."""
    told = [step for step in steps if step.undo]
    blocks = [heading(f"Dry run of the way back of {rollout}: nothing is changed")]
    for position, step in enumerate(told, 1):
        lines = [f"[{position}/{len(told)}] {heading('undo: ' + step.title)}"]
        lines += [f"      {lock_words(lock)}" for lock in step.locks] or ["      no table lock"]
        lines += ["", _statements(step.undo)]
        blocks.append("\n".join(lines))
    if rest := len(steps) - len(told):
        blocks.append(f"Nothing of its own to undo: {plural(rest, 'step')} more.")
    return joined(blocks)


def _statements(texts: Sequence[str]) -> str:
    return indented(";\n".join(text.strip().rstrip(";") for text in texts) + ";", 8)


def rollback_text(result: RollbackResult) -> str:
    """What was undone, and that nothing is left."""
    undone = sum(1 for step in result.steps if step.outcome.value == "undone")
    lines = []
    if result.verification is not None:
        lines += [verify_text(result.verification), ""]
    lines.append(
        good(f"{result.rollout} is {state_words(result.state.value)}")
        + f": {plural(undone, 'step')} undone in {seconds(result.seconds)}."
    )
    if result.without_old_form:
        lines += ["", kept_table(result.without_old_form)]
    if result.leftovers:
        lines.append(careful("Left behind:"))
        lines += [f"  {name}" for name in result.leftovers]
        lines.append("Remove them by hand; `zdm doctor` lists them again.")
    return "\n".join(lines)


SHOWN = 50
"""Rows that a rollback names on a terminal; all of them are in its JSON, and in the table."""


def kept_table(rows: Sequence[RowWithoutOldForm]) -> str:
    """The rows that could not be carried back, by key."""
    shown = [
        (str(row.table), ", ".join(f"{name}={value}" for name, value in row.key.items()), row.reason)
        for row in rows[:SHOWN]
    ]
    end = f"{plural(len(rows), 'row')} of the new version had no old form: kept whole in zdm.rows_without_old_form."
    if len(rows) > SHOWN:
        end += f" The first {SHOWN} are shown; `--json` has all."
    return joined([heading("Kept, and not in the old version"), table(shown, ("table", "key", "why")), end])


def verification_table(tables: Sequence[TableVerification]) -> str:
    """One line a table; every count but the rows should be zero."""
    headers = ["table", "rows", "unfilled", "failed", "old differs", "new differs", "NULLs"]
    across = any(t.missing or t.extra or t.different for t in tables)
    headers += ["missing", "extra", "different"] if across else []
    rows = [
        (
            str(t.table),
            number(t.rows),
            *(_count(n) for n in (t.unsettled, t.failed, t.old_disagrees, t.new_disagrees, t.nulls)),
            *(_count(n) for n in ((t.missing, t.extra, t.different) if across else ())),
            seconds(t.seconds),
        )
        for t in tables
    ]
    return joined(
        [table(rows, (*headers, "took"), right=tuple(range(1, len(headers) + 1))), violation_table(tables)]
    )


def violation_table(tables: Sequence[TableVerification]) -> str:
    """Constraints of the new version that rows break; empty if none."""
    rows = [
        (str(t.table), v.constraint, bad(number(v.rows)), "; ".join(v.samples[:3]))
        for t in tables
        for v in t.violations
    ]
    if not rows:
        return ""
    return table(rows, ("table", "breaks", "rows", "for example"), right=(2,))


def _count(value: int) -> str:
    return bad(number(value)) if value else "0"


def verify_text(result: VerifyResult) -> str:
    """The findings of a verification."""
    if not result.tables:
        return f"{result.rollout} maps no rows; there is nothing to compare."
    blocks = [verification_table(result.tables)]
    samples = [f"  {t.table}: {'; '.join(t.sample_keys)}" for t in result.tables if t.sample_keys]
    if samples:
        blocks.append("\n".join([heading("Some of these rows"), *samples]))
    rows = sum(t.rows for t in result.tables)
    repaired = sum(t.repaired for t in result.tables)
    end = f"{plural(rows, 'row')} compared in {seconds(result.seconds)}"
    if repaired:
        end += f", {plural(repaired, 'row')} repaired"
    alone = sum(t.without_old_form for t in result.tables)
    if alone:
        end += f", {plural(alone, 'row')} without an old form recorded"
    differences = sum(t.disagreements for t in result.tables)
    broken = sum(t.broken for t in result.tables)
    found = [bad(plural(differences, "difference"))] if differences else [good("both sides agree")]
    if broken:
        found.append(bad(f"{plural(broken, 'row')} break{'s' if broken == 1 else ''} a constraint"))
    end += f": {', '.join(found)}."
    return joined([*blocks, end])


def log_line(log: Reconciled) -> str:
    """What waits in the log of a rollout, and what lost."""
    waits = (
        f"{plural(log.waiting, 'change')} waiting, the oldest for {seconds(log.lag_seconds)}"
        if log.waiting
        else "nothing waits"
    )
    remarks = [careful(waits) if log.waiting else good(waits)]
    if log.without_form:
        remarks.append(bad(f"{plural(log.without_form, 'change')} without a form on the other side"))
    if log.conflicts:
        remarks.append(careful(f"{plural(log.conflicts, 'write')} lost against the other version's"))
    return "; ".join(remarks)


def reconcile_text(result: ReconcileResult) -> str:
    """What the reconciler did."""
    if result.interrupted:
        return careful(f"The database cannot be reached: {result.interrupted}")
    if not result.rollouts:
        return "No rollout is synced by log; there is nothing to reconcile."
    lines = [f"{one.rollout} on {sql_name(one.target)}: {log_line(one)}." for one in result.rollouts]
    rate = f", {number(result.keys / result.seconds)} rows/s" if result.seconds > 0 and result.keys else ""
    return joined([*lines, f"{plural(result.keys, 'row')} reconciled in {seconds(result.seconds)}{rate}."])


def backfill_text(result: BackfillResult) -> str:
    """What a backfill did."""
    if not result.tables:
        return f"{result.rollout} maps no rows; there is nothing to fill."
    rows = [
        (
            str(t.table),
            number(t.rows),
            number(t.chunks),
            _count(t.failed),
            seconds(t.seconds),
            seconds(t.throttled_seconds) if t.throttled_seconds else "-",
            good("complete") if t.complete else careful("not complete"),
        )
        for t in result.tables
    ]
    headers = ("table", "rows filled", "chunks", "failed", "took", "throttled", "")
    rate = f", {number(result.rows / result.seconds)} rows/s" if result.seconds > 0 and result.rows else ""
    end = f"{plural(result.rows, 'row')} filled in {seconds(result.seconds)}{rate}."
    return joined([table(rows, headers, right=(1, 2, 3, 4, 5)), end])
