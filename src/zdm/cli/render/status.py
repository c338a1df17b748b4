"""Where rollouts stand: the overview, one rollout in full, its history, and the doctor's checks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from zdm.cli.render.moves import log_line, next_text, state_words, verdict_table, verification_table
from zdm.cli.render.text import (
    bad,
    careful,
    faint,
    good,
    heading,
    joined,
    number,
    plural,
    seconds,
    table,
    when,
    wrapped,
)
from zdm.model.names import sql_name

if TYPE_CHECKING:
    from zdm.engine.results import Check, HistoryEntry, InitResult, RolloutStatus, TableProgress

_PHASES = ("preparation", "migration", "switchover", "cleanup")


def overview_text(rollouts: Sequence[RolloutStatus]) -> str:
    """One line a rollout."""
    if not rollouts:
        return "No rollouts yet. Begin one with `zdm advance FILE`."
    rows = [
        (
            r.rollout,
            sql_name(r.target),
            _state(r),
            r.next_phase.value if r.next_phase else "-",
            "yes" if r.can_return else "no",
            when(r.state_since),
            _remarks(r),
        )
        for r in rollouts
    ]
    return table(rows, ("rollout", "target", "state", "next", "way back", "since", ""), indent=0)


def _state(status: RolloutStatus) -> str:
    text = state_words(status.state.value)
    if "failed" in text:
        return bad(text)
    return good(text) if status.state.value == "completed" else text


def _remarks(status: RolloutStatus) -> str:
    remarks = []
    if status.paused:
        remarks.append("paused")
    if status.fenced:
        remarks.append("fenced")
    if status.lease and not status.lease.expired:
        remarks.append(f"held by {status.lease.holder}")
    failed = sum(f.rows for f in status.failures)
    if failed:
        remarks.append(f"{plural(failed, 'row')} failed")
    return careful(", ".join(remarks)) if remarks else ""


def phase_line(status: RolloutStatus) -> str:
    """``preparation done · migration running · switchover · cleanup``."""
    state = status.state.value
    if state.startswith("roll"):
        return f"none: the rollout {'was' if state == 'rolled_back' else 'is being'} taken back"
    current = status.phase.value if status.phase else ""
    parts = []
    for position, phase in enumerate(_PHASES):
        at = _PHASES.index(current) if current else -1
        if state == "completed" or (position < at):
            parts.append(good(f"{phase} done"))
        elif position == at:
            failed, running = (
                state.endswith("_failed"),
                state.endswith(("ing", "ing_over", "ing_up")),
            )
            parts.append(
                bad(f"{phase} failed")
                if failed
                else careful(f"{phase} running")
                if running
                else good(f"{phase} done")
            )
        else:
            parts.append(faint(phase))
    return " > ".join(parts)


def status_text(status: RolloutStatus, now: datetime) -> str:
    """One rollout in full."""
    facts = [
        ("state", f"{_state(status)}, since {when(status.state_since, now)}"),
        ("phases", phase_line(status)),
        ("target", sql_name(status.target)),
        ("authority", f"the {status.authority.value} structure"),
    ]
    if status.new_schema:
        facts.append(("schemas", f"old {sql_name(status.old_schema)}, new {sql_name(status.new_schema)}"))
    facts.append(("risk", status.risk))
    if status.paused:
        facts.append(("paused", careful(f"yes; go on with `zdm resume {status.rollout}`")))
    if status.fenced:
        facts.append(
            (
                "fenced",
                careful(f"the old version is closed; open it with `zdm fence {status.rollout} --lift`"),
            )
        )
    if status.lease:
        over = ", expired" if status.lease.expired else ""
        facts.append(("held by", f"{status.lease.holder}, since {when(status.lease.since, now)}{over}"))
    if status.last_error:
        facts.append(("last error", bad(status.last_error)))
    head = heading(status.rollout) + (f": {status.description}" if status.description else "")
    blocks = [head + "\n" + table(facts)]
    gone = status.state.value == "rolled_back"
    if status.progress and not gone:
        blocks.append(heading("Backfill") + "\n" + table([_progress(p) for p in status.progress]))
    if status.failures:
        rows = [(str(f.table), bad(plural(f.rows, "row")), f.message) for f in status.failures]
        blocks.append(heading("Rows that could not be mapped") + "\n" + table(rows))
    blocks.append(_without_old_form(status))
    if status.log is not None and not gone:
        blocks.append(heading("Log") + "\n" + log_line(status.log))
    if status.verification and not gone:
        newest = max((t.at for t in status.verification if t.at), default=None)
        blocks.append(
            heading(f"Verification, {when(newest, now)}") + "\n" + verification_table(status.verification)
        )
    steps = [s for s in status.steps if s.outcome.value in ("running", "failed")]
    if steps:
        rows = [(s.outcome.value, s.title, s.error) for s in steps]
        blocks.append(heading("Steps") + "\n" + table(rows))
    if status.approvals:
        approvals = [(a.phase.value, a.by, when(a.at, now), a.comment) for a in status.approvals]
        blocks.append(heading("Approvals") + "\n" + table(approvals))
    if status.verdicts and status.next_phase:
        blocks.append(
            heading(f"Gates of {status.next_phase.value}, now") + "\n" + verdict_table(status.verdicts)
        )
    if gone:
        return joined([*blocks, f"Next: `zdm advance {status.rollout} --restart` begins again."])
    following = status.next_phase.value if status.next_phase else ""
    begun = status.next_phase is not None and status.next_phase is status.phase
    blocks.append(next_text(status.rollout, following, status.can_return, begun=begun))
    return joined(blocks)


def _without_old_form(status: RolloutStatus) -> str:
    """Rows that the old version has no form for; empty if there are none."""
    rows = [
        (str(w.table), careful(plural(w.rows, "row")), "; ".join(w.sample_keys[:3]))
        for w in status.without_old_form
    ]
    if not rows:
        return ""
    verb = "kept" if status.state.value == "rolled_back" else "recorded"
    return heading(f"Rows without an old form, {verb} in zdm.rows_without_old_form") + "\n" + table(rows)


def _progress(progress: TableProgress) -> tuple[str, str]:
    if progress.complete:
        return str(progress.table), good("complete") + (
            f", {number(progress.rows)} rows" if progress.rows is not None else ""
        )
    parts = []
    if progress.total:
        parts.append(f"{min(99, int(progress.done / progress.total * 100))} %")
        parts.append(f"{number(progress.done)} of {number(progress.total)} {progress.unit}")
    if progress.rows is not None:
        parts.append(f"{number(progress.rows)} rows")
    if progress.rows_per_second is not None:
        parts.append(f"{number(progress.rows_per_second)} rows/s")
    if progress.eta_seconds is not None:
        parts.append(f"{seconds(progress.eta_seconds)} left")
    if progress.throttled_by:
        parts.append(careful(f"slowed down: {progress.throttled_by}"))
    return str(progress.table), ", ".join(parts) or "not begun"


def history_text(rollout: str, entries: Sequence[HistoryEntry]) -> str:
    """Every event, oldest first."""
    if not entries:
        return f"Nothing has happened to {rollout} yet."
    rows = [(when(e.at), e.by, e.phase.value if e.phase else "", e.event, _event(e)) for e in entries]
    return table(rows, ("when", "by", "phase", "event", "what"), indent=0)


def _event(entry: HistoryEntry) -> str:
    if not entry.text and entry.before is not None and entry.state is not None:
        return f"{state_words(entry.before.value)} to {state_words(entry.state.value)}"
    return entry.text


_HEALTH = {
    "ok": good("ok"),
    "note": "note",
    "warning": careful("warning"),
    "problem": bad("PROBLEM"),
    "unknown": bad("UNKNOWN"),
}


def doctor_text(checks: Sequence[Check]) -> str:
    """Every check, then what to do about those that are not well."""
    rows = [
        (_HEALTH[c.health.value], c.name, c.found + (f"; needed: {c.needed}" if c.needed else ""))
        for c in checks
    ]
    remedies = [wrapped(c.remedy, first=f"{c.name}: ") for c in checks if c.remedy and c.health.value != "ok"]
    todo = "\n".join([heading("What to do"), *remedies]) if remedies else ""
    problems = sum(c.health.value in ("problem", "unknown") for c in checks)
    warnings = sum(c.health.value == "warning" for c in checks)
    end = (
        "zdm can work here."
        if not problems
        else bad(f"{plural(problems, 'problem')}: zdm cannot work here as it is.")
    )
    if warnings:
        end += f" {plural(warnings, 'warning')}."
    return joined([table(rows, indent=0), todo, end])


def init_text(result: InitResult) -> str:
    """What `init` did."""
    place = f"database {result.database}, as {result.role}, PostgreSQL {version_words(result.server_version)}"
    if not result.changed:
        return f"The catalog is up to date (version {result.version}) in {place}."
    verb = f"upgraded from {result.previous} to" if result.previous else "installed,"
    return good(f"The catalog was {verb} version {result.version}") + f" in {place}."


def version_words(number_: int) -> str:
    """``18.6`` from ``180006``."""
    return f"{number_ // 10000}.{number_ % 10000}"
