"""monitoring/ loads as it is: a real Prometheus reads the metrics of a real worker and answers everything it asks."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from temporalio.client import WorkflowFailureError

from calltasks.names import CALL_TASKS, MONITOR_WORKFLOW, WORKFLOW
from devstack.processes import free_port
from simulators import Fault, SimulatorOptions
from tests.pipeline import Site, Sites, eventually
from tests.programs import Program, own_environment
from tests.prometheus import PROJECT, Prometheus, promtool
from tests.test_docs import OPERATIONS, anchors

MONITORING = PROJECT / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
ALERTS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
METRIC = re.compile(r"\b(?:call_tasks|temporal)_\w+|\bup\b")


# --- alerts ---------------------------------------------------------------------------------------------------------


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", MONITORING / "alerts.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    tested = yaml.safe_load((PROJECT / "tests/alerts.yml").read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {alert["alert"] for alert in ALERTS}
    promtool("test", "rules", PROJECT / "tests/alerts.yml")


def test_every_alert_names_what_to_do_about_it() -> None:
    told = OPERATIONS.read_text("utf-8")
    for alert in ALERTS:
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert PROJECT / page == OPERATIONS and anchor in anchors(OPERATIONS), alert["alert"]
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert f"| `{alert['alert']}` |" in told


# --- the dashboard --------------------------------------------------------------------------------------------------


def targets() -> Iterator[tuple[str, str]]:
    """Title of a panel, and an expression of it."""
    for panel in PANELS:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_the_dashboard_has_the_form_that_grafana_reads() -> None:
    assert DASHBOARD["uid"] and DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD.get("id") is None, "Grafana numbers dashboards itself"
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["type"] in {"row", "stat", "timeseries"} and panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == DATASOURCE and panel["description"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters and len(letters) == len(set(letters))
        assert all(target["datasource"] == DATASOURCE and target["expr"] for target in panel["targets"])
    named = {name for _, expression in targets() for name in re.findall(r"\$(\w+)", expression)}
    assert named <= variables.keys() | {"__rate_interval"}


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_grafana_finds_the_dashboard_and_its_source_in_the_container() -> None:
    services = yaml.safe_load((PROJECT / "temporal-dev.yml").read_text())["services"]
    mounted = dict(volume.removesuffix(":ro").split(":") for volume in services["grafana"]["volumes"])
    [provider] = yaml.safe_load((MONITORING / "grafana-dashboards.yml").read_text())["providers"]
    shown = Path(mounted["./monitoring/grafana-dashboard.json"])
    assert shown.parent == Path(provider["options"]["path"])
    [source] = yaml.safe_load((MONITORING / "grafana-datasource.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    [job] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert found["names"] == ["worker"]
    assert services["worker"]["environment"]["METRICS_ADDRESS"] == f"0.0.0.0:{found['port']}"


# --- a real Prometheus, a real worker ------------------------------------------------------------------------------


async def test_everything_that_dashboard_and_alerts_ask_is_answered(sites: Sites, tmp_path: Path) -> None:
    promtool("--version")
    site = await sites(SimulatorOptions(calls_over=True))
    address = f"127.0.0.1:{free_port()}"
    settings = {**own_environment(), **site.environment, "METRICS_ADDRESS": address, "LOG_FORMAT": "json"}
    worker = Program(settings, tmp_path / "worker", "worker.py")
    server = Prometheus(tmp_path, address)
    worker.start()
    try:
        await asyncio.to_thread(server.process.start)

        async def seen() -> bool:
            return bool(server.get("query", query='up{job="call-tasks"} == 1')["result"])

        await eventually(seen)
        await _work(site)
        await _all_is_answered(server)
        await _a_refusal_is_an_alert(site, server)
        scrape = _scrape(address)
    finally:
        worker.kill()
        await asyncio.to_thread(server.process.stop)
    exported = set(re.findall(r"^([a-z_]+?)(?:\{| )", scrape, re.MULTILINE)) | {"up"}
    asked = {name for alert in ALERTS for name in METRIC.findall(alert["expr"])}
    assert asked | {name for _, expression in targets() for name in METRIC.findall(expression)} <= exported
    ours = {name for name in re.findall(r"^# TYPE (call_tasks_\w+)", scrape, re.MULTILINE)}
    told = set(re.findall(r"`(call_tasks_\w+)`", OPERATIONS.read_text("utf-8")))
    assert ours == told
    assert "org7" in scrape and not re.search(r"(?<![\d.])139\d{8}|测试客户", scrape)


def _scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


async def _work(site: Site) -> None:
    """A bit of everything that the dashboard shows, failures too, twice: a rate needs two looks."""
    site.add_leads(40)
    for _ in range(2):
        site.sim.set_faults(
            Fault(target="ListJobs", kind="throttle", count=1, seconds=0.1),
            Fault(target="model", kind="content_filter", count=1),
            Fault(target="model", kind="invalid_json", count=1),
        )
        task_id = await site.create_task()
        result = await site.run(task_id)
        assert (result["outcome"], result["analysis_failed"]) == ("complete", 1)
        with suppress(WorkflowFailureError):
            await site.client.execute_workflow(
                WORKFLOW, {"task_id": 999}, id="call-task-999", task_queue=CALL_TASKS, result_type=dict
            )
        await site.client.execute_workflow(MONITOR_WORKFLOW, id="monitor", task_queue=CALL_TASKS)
    # No worker knows this one: its workflow task fails again and again.
    await site.client.start_workflow("NoSuchWorkflow", id="stuck", task_queue=CALL_TASKS)


async def _all_is_answered(server: Prometheus) -> None:
    """Every expression of the dashboard has a result in the end, every one of the alerts can be evaluated."""
    silent: list[str] = []

    async def answered() -> bool:
        silent[:] = [title for title, expression in targets() if not _result(server, expression)]
        return not silent

    try:
        await eventually(answered, 30)
    except TimeoutError:
        pytest.fail(f"panels without an answer: {silent}")
    for alert in ALERTS:
        server.get("query", query=alert["expr"])
    [group] = server.get("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [alert["alert"] for alert in ALERTS]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}


def _result(server: Prometheus, expression: str) -> list[Any]:
    query = expression.replace("$__rate_interval", "1m").replace("$organization", ".*")
    result: list[Any] = server.get("query", query=query)["result"]
    return result


async def _a_refusal_is_an_alert(site: Site, server: Prometheus) -> None:
    site.sim.set_faults(Fault(target="*", kind="permanent", code="SignatureDoesNotMatch"))
    task_id = await site.create_task()
    with pytest.raises(WorkflowFailureError):
        await site.run(task_id)

    async def fired() -> bool:
        alerts = server.get("alerts")["alerts"]
        return any(
            (alert["labels"]["alertname"], alert["labels"].get("code"), alert["state"])
            == ("CallTasksRefused", "SignatureDoesNotMatch", "firing")
            for alert in alerts
        )

    await eventually(fired, 30)
