"""The compose file, the scrape configuration, the alerts and the dashboard fit together and to what zdm exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "dashboards"
DASHBOARD = DASHBOARDS / "grafana" / "dashboards" / "zdm.json"

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run_promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = load(ROOT / "docker-compose.yml")
    return loaded


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """The names of all metrics that the exporter has."""
    source = (ROOT / "src" / "zdm" / "metrics" / "collector.py").read_text(encoding="utf-8")
    names = set(re.findall(r'"(zdm_[a-z_]+)"', source))
    # The client library adds the suffix to counters.
    return names | {f"{name}_total" for name in names}


def strings(value: object, key: str) -> Iterator[str]:
    """Every string under this key, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key and isinstance(inner, str):
                yield inner
            yield from strings(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key)


def alert_expressions() -> list[str]:
    return list(strings(load(DASHBOARDS / "alerts.yml"), "expr"))


def dashboard_expressions() -> list[str]:
    return list(strings(json.loads(DASHBOARD.read_text(encoding="utf-8")), "expr"))


class TestCompose:
    def test_it_has_the_five_services(self, compose: dict[str, Any]) -> None:
        assert set(compose["services"]) == {"primary", "replica", "exporter", "prometheus", "grafana"}

    def test_what_it_mounts_is_there(self, compose: dict[str, Any]) -> None:
        for service in compose["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert (ROOT / source).exists(), source
                else:
                    assert source in compose["volumes"]
            for config in service.get("configs", []):
                assert config["source"] in compose["configs"]
            for needed in service.get("depends_on", []):
                assert needed in compose["services"]

    def test_nothing_listens_to_the_network(self, compose: dict[str, Any]) -> None:
        for service in compose["services"].values():
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))

    @pytest.mark.parametrize("script", ["allow_replication", "start_replica"])
    def test_its_scripts_are_scripts(self, compose: dict[str, Any], script: str) -> None:
        text = compose["configs"][script]["content"].replace("$$", "$")
        subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=10)  # noqa: S607

    def test_prometheus_scrapes_the_exporter_where_it_listens(self, compose: dict[str, Any]) -> None:
        listen = compose["services"]["exporter"]["command"][-1]
        (job,) = load(DASHBOARDS / "prometheus.yml")["scrape_configs"]
        assert job["static_configs"] == [{"targets": [f"exporter:{listen.rpartition(':')[2]}"]}]

    def test_the_image_holds_what_the_wheel_is_built_from(self) -> None:
        dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
        allowed = {
            line.removeprefix("!")
            for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
            if line.startswith("!")
        }
        copied = {
            name
            for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE)
            for name in line.split()
        }
        assert copied == allowed
        assert all((ROOT / name).exists() for name in copied)


class TestNames:
    @pytest.mark.parametrize("expressions", [alert_expressions, dashboard_expressions])
    def test_only_what_is_exported_is_asked_for(self, expressions: Any, exported: set[str]) -> None:
        asked = {name for text in expressions() for name in re.findall(r"\bzdm_[a-z_]+", text)}
        assert asked
        assert asked - exported == set()

    def test_the_dashboard_shows_what_it_is_for(self) -> None:
        shown = " ".join(dashboard_expressions())
        for name in (
            "zdm_rollout_phase",
            "zdm_backfill_rows_total",
            "zdm_backfill_rows_estimated",
            "zdm_verification_mismatches",
            "zdm_gate_passed",
            "zdm_replication_lag_seconds",
            "zdm_sync_failures",
            "zdm_rollout_last_event_timestamp_seconds",
        ):
            assert name in shown

    def test_panels_do_not_overlap(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells

    def test_the_dashboard_is_provisioned(self, compose: dict[str, Any]) -> None:
        (source,) = load(DASHBOARDS / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
        assert source["url"] == "http://prometheus:9090"
        (provider,) = load(DASHBOARDS / "grafana/provisioning/dashboards/zdm.yml")["providers"]
        targets = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
        assert provider["options"]["path"] in targets


@promtool
class TestPrometheus:
    def test_the_configuration(self) -> None:
        run_promtool("check", "config", DASHBOARDS / "prometheus.yml")

    def test_the_dashboards_expressions(self, tmp_path: Path) -> None:
        """As recording rules, with Grafana's variables filled in."""
        filled = [
            text.replace("$__rate_interval", "1m").replace("$__interval", "1m")
            for text in dashboard_expressions()
        ]
        rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(filled)]
        path = tmp_path / "rules.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
        run_promtool("check", "rules", path)

    def test_the_alerts(self) -> None:
        run_promtool("test", "rules", Path(__file__).with_name("alerts_test.yml"))
