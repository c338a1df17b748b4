"""zdm.toml, the environment and the options."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.cli.conftest import URL, Zdm
from zdm.cli import config
from zdm.cli.run import Run, engine_settings
from zdm.engine.settings import EngineSettings
from zdm.errors import BadInput
from zdm.throttle.settings import ThrottleSettings


def toml(directory: Path, text: str) -> Path:
    path = directory / "zdm.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_is_searched_upward(place: Path, monkeypatch: pytest.MonkeyPatch, zdm: Zdm) -> None:
    toml(place, 'url = "postgresql://file@h/d"\ntarget = "tenant_a"\n')
    below = place / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    ended = zdm("status", url=None)
    assert ended.engine.calls[0][1] == ("postgresql://file@h/d", "tenant_a")
    # The migrations directory is the file's, not the working directory's.
    assert zdm("plan", "widen_balance", url=None).code == 0


def test_an_option_wins_over_the_environment_and_that_over_the_file(place: Path, zdm: Zdm) -> None:
    toml(place, 'url = "postgresql://file@h/d"\ntarget = "tenant_a"\n')
    assert zdm("status").engine.calls[0][1] == (URL, "tenant_a")
    ended = zdm("status", "--url", "postgresql://option@h/d", "--target", "tenant_b")
    assert ended.engine.calls[0][1] == ("postgresql://option@h/d", "tenant_b")


def test_a_file_by_name(place: Path, zdm: Zdm) -> None:
    other = place / "other.toml"
    other.write_text('url = "postgresql://other@h/d"\n', encoding="utf-8")
    ended = zdm("--config", str(other), "status", url=None)
    assert ended.engine.calls[0][1][0] == "postgresql://other@h/d"


@pytest.mark.parametrize(
    "text, expected",
    [
        ('target = "a"\nurll = "postgresql://u:s3cret@h/d"\n', "zdm.toml:2: unknown key 'urll'"),
        ("replicas = 1\n", "zdm.toml:1: replicas must be a list"),
        ("\nworkers = 0\n", "zdm.toml:2: workers must be a whole number"),
        ("target = 1\n", "zdm.toml:1: target must be text"),
        ("target = \n", "not valid TOML"),
        ('lock_budget = "soon"\n', "zdm.toml:1: lock_budget: 'soon' is not a duration"),
        ('url = "x"\n[throttle]\nmax_lagg = "1s"\n', "zdm.toml:3: unknown key 'max_lagg' of [throttle]"),
        (
            "workers = 2\n[throttle]\nmax_lag = 'soon'\n",
            "zdm.toml:3: throttle.max_lag: 'soon' is not a duration",
        ),
        (
            "\nthrottle = {nice = 0, max_active = 0}\n",
            "zdm.toml:2: throttle.max_active: Input should be greater",
        ),
        ("throttle = 3\n", "zdm.toml:1: throttle must be a table"),
        (
            "[throttle]\nreplicas = ['postgresql://u:s3cret@h/d', 'no url']\n",
            "a URL of 'replicas' in [throttle]",
        ),
    ],
)
def test_what_is_wrong_with_it_is_told(place: Path, text: str, expected: str) -> None:
    path = toml(place, text)
    run = Run()
    run.config_file = str(path)
    with pytest.raises(BadInput) as caught:
        engine_settings(run, {})
    assert expected in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_engines_settings_are_keys_of_the_file(place: Path) -> None:
    assert set(config.ENGINE_KEYS) <= set(config.KEYS)
    assert set(config.ENGINE_KEYS) == set(EngineSettings.model_fields) - {"holder"}
    toml(place, 'lock_budget = "50ms"\nworkers = 2\nreplicas = ["postgresql://r@h/d"]\n')
    settings = engine_settings(Run(), {"workers": 3})
    assert settings.workers == 3
    assert settings.lock_budget.total_seconds() == 0.05
    assert settings.replicas == ("postgresql://r@h/d",)


def test_the_throttle_is_set_below_a_heading_of_its_own(place: Path) -> None:
    assert set(config.THROTTLE_KEYS) == set(ThrottleSettings.model_fields)
    assert engine_settings(Run(), {}).throttle == ThrottleSettings()
    toml(place, '[throttle]\nmax_lag = "2s"\nmax_active = 30\nmax_archive_backlog = "off"\nnice = 0.5\n')
    throttle = engine_settings(Run(), {}).throttle
    assert throttle.max_lag == timedelta(seconds=2)
    assert (throttle.max_active, throttle.max_archive_backlog, throttle.nice) == (30, None, 0.5)


def test_a_password_in_the_file_stays_there(place: Path, zdm: Zdm) -> None:
    toml(place, 'url = "postgresql://u:s3cret@h/d"\nreplicas = ["postgresql://u:0ther@r/d"]\n')
    ended = zdm("status", url=None, status=RuntimeError("s3cret and 0ther"))
    assert "s3cret" not in ended.err
    assert "0ther" not in ended.err
