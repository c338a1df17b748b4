"""Exit codes, JSON and the exact text that people see."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.unit.cli.conftest import URL, Zdm
from tests.unit.cli.fake import AT, FakeEngine, advanced, plan, refused, rollout, verification
from zdm.backfill import BadData
from zdm.cli.app import COMMANDS
from zdm.db.session import OutcomeUnknown
from zdm.engine.results import (
    AdvanceResult,
    Check,
    FenceResult,
    Health,
    InitResult,
    Outcome,
    RolloutStatus,
    VerifyResult,
)
from zdm.errors import BadInput, Busy, Drift, GateRefused, IllegalMove, Interrupted, Problem, ZdmError
from zdm.model.phases import State
from zdm.model.step import Phase

ID = "widen_balance"
CALLS: dict[str, tuple[str, ...]] = {
    "init": ("init",),
    "plan": ("plan", ID),
    "plan_markdown_sql": ("plan", ID, "--markdown", "--sql"),
    "advance": ("advance", ID),
    "preview": ("advance", ID, "--dry-run"),
    "rollback": ("rollback", ID),
    "preview_rollback": ("rollback", ID, "--dry-run"),
    "verify": ("verify", ID),
    "backfill": ("backfill", ID),
    "reconcile": ("reconcile", ID),
    "pause": ("pause", ID),
    "resume": ("resume", ID),
    "approve": ("approve", ID, "switchover", "--by", "ada"),
    "fence": ("fence", ID),
    "history": ("history", ID),
    "doctor": ("doctor",),
    "status_all": ("status",),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_person_sees(zdm: Zdm, snapshot: Callable[[str, str], None], name: str) -> None:
    ended = zdm(*CALLS[name])
    assert ended.code == 0, ended.err
    assert ended.err == ""
    snapshot(f"{name}.txt", ended.out)


@pytest.mark.parametrize("name", [n for n in CALLS if n != "plan_markdown_sql"])
def test_json_is_one_object_with_the_exit_code(zdm: Zdm, name: str) -> None:
    ended = zdm(*CALLS[name], "--json")
    assert ended.code == 0
    assert ended.json["exit_code"] == 0
    assert ended.err == ""


def test_tables_are_named_as_in_sql(zdm: Zdm) -> None:
    assert zdm("verify", ID, "--json").json["tables"][0]["table"] == "public.accounts"
    assert zdm("plan", ID, "--json").json["plan"]["facts"][0]["table"] == "public.accounts"


def test_a_rollout_that_was_taken_back_may_begin_again(zdm: Zdm) -> None:
    ended = zdm("status", ID, status=[rollout(state=State.ROLLED_BACK, next_phase=None, can_return=False)])
    assert ended.out.endswith("Next: `zdm advance widen_balance --restart` begins again.\n")
    assert "42 %" not in ended.out


def test_every_command_of_the_engine_is_covered() -> None:
    offline = {"new", "validate", "schema", "metrics", "demo"}
    assert {call[0] for call in CALLS.values()} | offline == {n for group in COMMANDS.values() for n in group}


def test_one_rollout_in_full(snapshot: Callable[[str, str], None]) -> None:
    import click

    from zdm.cli.render.status import status_text

    snapshot("status.txt", click.unstyle(status_text(rollout(), AT + timedelta(minutes=5))) + "\n")


@pytest.mark.parametrize(
    "error, code, kind",
    [
        (ZdmError("a step failed", changed="The rollout is preparation_failed."), 1, "failed"),
        (BadInput("the table is wrong"), 2, "bad_input"),
        (IllegalMove("the rollout is complete"), 2, "illegal_move"),
        (GateRefused("the soak refused"), 3, "gate_refused"),
        (Busy("held by ci-7"), 4, "busy"),
        (Drift("a trigger is gone"), 5, "drift"),
        (BadData("2 rows cannot be mapped"), 1, "failed"),
        (OutcomeUnknown("the connection was lost"), 1, "failed"),
        (Interrupted("stopped", changed="2 steps are done."), 1, "interrupted"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (psycopg.OperationalError("connection refused"), 1, "failed"),
        (RuntimeError("a defect"), 1, "failed"),
    ],
)
@pytest.mark.parametrize("command", ["advance", "rollback", "verify", "backfill", "status", "history"])
def test_errors(zdm: Zdm, command: str, error: BaseException, code: int, kind: str) -> None:
    answers: dict[str, Any] = {command: error}
    plain = zdm(command, ID, **answers)
    assert (plain.code, plain.out) == (code, "")
    assert "Traceback" not in plain.err
    told = zdm("--json", command, ID, **answers)
    assert told.code == code
    assert told.json["exit_code"] == code
    assert told.json["error"]["type"] == kind
    assert "Traceback" not in told.err


def test_debug_shows_the_traceback_without_passwords(zdm: Zdm) -> None:
    ended = zdm("status", "--debug", status=RuntimeError(f"cannot reach {URL} with s3cret word"))
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "s3cret" not in ended.err


@pytest.mark.parametrize(
    "text",
    [
        f'connection to "{URL}" failed',
        'invalid port number: "s3cret word"',
        "host=db password='s3cret word' user=x",
        "host=db password=s3cret%20word user=x",
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",), ("--debug",)])
def test_no_password_in_an_error(zdm: Zdm, text: str, flags: tuple[str, ...]) -> None:
    ended = zdm("status", *flags, status=psycopg.OperationalError(text))
    assert ended.code == 1
    assert "s3cret" not in ended.out + ended.err


def test_no_password_of_the_command_line_in_a_usage_error(zdm: Zdm) -> None:
    ended = zdm("status", f"--urll={URL}", url=None)
    assert ended.code == 2
    assert "s3cret" not in ended.err


def test_no_password_in_an_answer(zdm: Zdm) -> None:
    check = Check(name="replicas", health=Health.OK, found=f"one, {URL}")
    for flags in ((), ("--json",)):
        ended = zdm("doctor", *flags, doctor=[check])
        assert ended.code == 0
        assert "s3cret" not in ended.out


def test_refused_gates_are_all_told(zdm: Zdm, snapshot: Callable[[str, str], None]) -> None:
    def advance(engine: FakeEngine, *args: Any, **kwargs: Any) -> AdvanceResult:
        del args, kwargs
        result = refused()
        engine.reporter.gates(result.phase, result.verdicts)
        return result

    ended = zdm("advance", ID, advance=advance)
    told = zdm("advance", ID, "--json", advance=advance)
    assert ended.code == 3
    snapshot("refused.txt", f"{ended.out}--- stderr\n{ended.err}")
    assert told.code == 3
    assert told.json["state"] == "migrated"
    assert [v["gate"] for v in told.json["verdicts"]] == ["drift", "replication_lag", "sync_failures", "soak"]
    assert told.json["error"]["type"] == "gate_refused"
    assert "REFUSED" in told.err


def test_quiet_still_tells_what_refused(zdm: Zdm) -> None:
    ended = zdm("advance", ID, "-q", advance=refused())
    assert ended.code == 3
    assert "42 s behind" in ended.out
    assert "drift" not in ended.out


def test_nothing_to_do_is_done(zdm: Zdm) -> None:
    ended = zdm(
        "advance", ID, advance=advanced(outcome=Outcome.NOTHING, state=State.COMPLETED, next_phase=None)
    )
    assert ended.code == 0
    assert ended.out == "widen_balance is completed; nothing is left to do.\n"


def test_options_reach_the_engine(zdm: Zdm) -> None:
    ended = zdm("advance", ID, "--wait", "1m30s", "--until", "switchover", "--restart", "--workers", "2")
    (opened, called) = ended.engine.calls
    assert opened == (
        "open",
        ("postgresql://migrator:s3cret%20word@db.example/shop", "public"),
        {"workers": 2},
    )
    assert called[2]["wait"] == timedelta(seconds=90)
    assert called[2]["until"] is Phase.SWITCHOVER
    assert called[2]["restart"] is True
    assert called[2]["file"] == "migrations/widen_balance.yaml"
    assert called[2]["source"].startswith("id: widen_balance\n")


def test_an_id_without_a_file_is_the_engines_to_know(zdm: Zdm) -> None:
    ended = zdm("advance", "registered_long_ago")
    assert ended.engine.calls[-1][1] == ("registered_long_ago",)


@pytest.mark.parametrize("name", ["migrations/widen_balance.yaml", "./migrations/widen_balance.yaml"])
def test_a_path_does_where_an_id_does(zdm: Zdm, name: str) -> None:
    assert zdm("rollback", name).engine.calls[-1][1] == (ID,)


def test_a_rollback_is_not_stopped_by_errors_in_the_file(zdm: Zdm, place: Path) -> None:
    (place / "migrations" / "widen_balance.yaml").write_text(
        "id: widen_balance\noperatoins: []\n", encoding="utf-8"
    )
    assert zdm("rollback", "migrations/widen_balance.yaml").code == 0


def test_global_options_before_and_after(zdm: Zdm) -> None:
    for arguments in (("--target", "tenant_a", "status"), ("status", "--target", "tenant_a")):
        assert zdm(*arguments).engine.calls[0][1][1] == "tenant_a"
    ended = zdm("--target", "a", "status", "--target", "b")
    assert ended.engine.calls[0][1][1] == "b"


def test_problems_of_the_server_get_file_and_line(zdm: Zdm) -> None:
    error = BadInput(
        "the plan cannot be made",
        problems=[
            Problem("there is no table accounts", "1:change_type.table", "Create it first."),
            Problem("this is odd", "1:change_type"),
            Problem("no right to create", "schema public"),
        ],
    )
    ended = zdm("plan", ID, plan=error)
    assert ended.code == 2
    assert "migrations/widen_balance.yaml:5: there is no table accounts\n" in ended.err
    assert "migrations/widen_balance.yaml:4: this is odd" in ended.err
    assert "schema public: no right to create" in ended.err


def test_without_a_database(zdm: Zdm) -> None:
    ended = zdm("status", url=None)
    assert ended.code == 2
    assert "no database is known" in ended.err


@pytest.mark.parametrize(
    "arguments", [("nope",), ("advance",), ("advance", "x", "--wait", "soon"), ("--nope",), ()]
)
def test_usage_errors(zdm: Zdm, arguments: tuple[str, ...]) -> None:
    ended = zdm(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    told = zdm(*arguments, "--json")
    assert told.code == 2
    assert told.json["error"]["type"] == "bad_input"


def test_a_mistyped_command_is_suggested(zdm: Zdm) -> None:
    assert "advance" in zdm("advanc").err


def test_a_verification_with_differences_fails(zdm: Zdm, snapshot: Callable[[str, str], None]) -> None:
    found = VerifyResult(
        rollout=ID,
        target="public",
        tables=(verification(old_disagrees=2, sample_keys=("id=1", "id=7")),),
        seconds=1.5,
    )
    ended = zdm("verify", ID, verify=found)
    assert ended.code == 1
    snapshot("verify_differences.txt", f"{ended.out}--- stderr\n{ended.err}")
    told = zdm("verify", ID, "--json", verify=found)
    assert told.json["tables"][0]["differences"] == 2
    assert told.json["clean"] is False


def test_a_problem_found_by_the_doctor_fails(zdm: Zdm) -> None:
    unknown = [Check(name="rights", health=Health.UNKNOWN, found="could not be read")]
    ended = zdm("doctor", doctor=unknown)
    assert ended.code == 1
    assert "rights" in ended.out


def test_init_says_what_it_did(zdm: Zdm) -> None:
    base: dict[str, Any] = {
        "database": "shop",
        "role": "migrator",
        "server_version": 150018,
        "version": "0006",
    }
    assert "up to date" in zdm("init", init=InitResult(**base, previous="0006")).out
    assert "upgraded from 0001 to version 0006" in zdm("init", init=InitResult(**base, previous="0001")).out


def test_lifting_a_fence(zdm: Zdm) -> None:
    ended = zdm("fence", ID, "--lift", fence=FenceResult(rollout=ID, target="public", fenced=False))
    assert ended.engine.calls[-1][2] == {"lift": True}
    assert "open again" in ended.out


def test_watching_ends_when_nothing_moves_any_more(zdm: Zdm) -> None:
    states = iter([State.MIGRATING, State.MIGRATING, State.COMPLETED])

    def status(engine: FakeEngine, identifier: str) -> list[RolloutStatus]:
        del engine, identifier
        return [
            rollout(
                state=next(states), verdicts=(), state_since=None, lease=None, verification=(), approvals=()
            )
        ]

    ended = zdm("status", ID, "--watch", "--interval", "0.2", status=status)
    assert ended.code == 0
    assert ended.out.count("phases") == 2  # once for each text that differs, as a log wants it


def test_watch_and_json_do_not_go_together(zdm: Zdm) -> None:
    assert zdm("status", "--watch", "--json").code == 2


def test_expose_columns_has_no_schemas_to_name(zdm: Zdm) -> None:
    ended = zdm("plan", ID, plan=plan().model_copy(update={"old_schema": "", "new_schema": ""}))
    assert "{" not in ended.out
    assert "search_path" not in ended.out
