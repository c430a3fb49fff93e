"""What the program counts and logs: it is right, and it is bounded."""

import asyncio
import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from temporalio.common import MetricMeter
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from activities.monitoring import Monitoring
from calltasks.database.connection import Database
from calltasks.errors import (
    AccountError,
    DeclinedError,
    PassingError,
    PermanentError,
    ServiceError,
    SettingsError,
    ThrottledError,
)
from calltasks.names import WORKFLOW
from calltasks.observing import telemetry
from calltasks.observing.logs import JsonFormatter
from calltasks.settings import DatabaseSettings, TelemetrySettings, TracingSettings, load
from simulators import SimulatorOptions
from tests.pipeline import Sites
from tests.programs import Program, own_environment

# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "0.0.0.0:1", "[::]:65535", ""])
def test_an_address_for_metrics_is_an_ip_address_and_a_port(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_ADDRESS", address)
    assert load(TelemetrySettings).metrics_address == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METRICS_ADDRESS", "localhost:9464"),
        ("METRICS_ADDRESS", "127.0.0.1"),
        ("METRICS_ADDRESS", "127.0.0.1:0"),
        ("METRICS_ADDRESS", "127.0.0.1:65536"),
        ("METRICS_ADDRESS", "127.0.0.1:٣"),
        ("METRICS_ADDRESS", "9464"),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load(TelemetrySettings), load(TracingSettings)


async def test_a_port_that_is_taken_is_one_line_and_exit_code_2(sites: Sites, tmp_path: Path) -> None:
    site = await sites()
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        address = f"127.0.0.1:{other.server_port}"
        settings = {**own_environment(), **site.environment, "METRICS_ADDRESS": address, "LOG_FORMAT": "json"}
        code, _, said = await Program(settings, tmp_path / "worker", "worker.py").ended()
    assert code == 2
    assert re.fullmatch(rf"worker: settings: METRICS_ADDRESS {address}: nothing can listen there: .+\n", said), said


# --- metrics --------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`counted()`: what was counted since the last time, by metric and labels."""
    buffer = MetricBuffer(10_000)
    runtime = Runtime(telemetry=TelemetryConfig(metrics=buffer, attach_service_name=False))
    monkeypatch.setattr(telemetry, "metrics", telemetry.Metrics(runtime.metric_meter))

    def count() -> Counter[tuple[str, ...]]:
        found: Counter[tuple[str, ...]] = Counter()
        for update in buffer.retrieve_updates():
            labels = (f"{name}={value}" for name, value in sorted(update.attributes.items()))
            found[(update.metric.name.removeprefix("call_tasks_"), *labels)] += int(update.value) or 1
        return found

    yield count


def test_without_an_address_nothing_is_measured() -> None:
    before = telemetry.metrics
    assert telemetry.start(TelemetrySettings()) is None
    assert telemetry.metrics is before
    assert type(before._open) is type(MetricMeter.noop.create_gauge("x"))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (ThrottledError("DashScope", "completion", "Throttling"), "throttled"),
        (DeclinedError("OutboundBot", "ListJobs", "NoSuccess"), "declined"),
        (PassingError("OutboundBot", "ListJobs", "ReadTimeout"), "passing"),
        (PermanentError("OutboundBot", "ListJobs", "NotExist.Instance"), "permanent"),
        (AccountError("DashScope", "completion", "Arrearage", kind="bill", hint="pay"), "bill"),
    ],
)
def test_a_request_is_counted_by_its_outcome(error: ServiceError | None, outcome: str, counted: Any) -> None:
    try:
        with telemetry.vendor_call("OutboundBot", "ListJobs"):
            if error is not None:
                raise error
    except ServiceError as raised:
        assert raised is error
    labels = ("action=ListJobs", f"code={error.code if error else ''}", f"outcome={outcome}", "service=OutboundBot")
    assert counted() == {
        ("vendor_calls", *labels): 1,
        ("vendor_call_seconds", "action=ListJobs", "service=OutboundBot"): 1,
    }


def test_what_was_not_sent_says_nothing_about_the_vendor(counted: Any) -> None:
    with pytest.raises(asyncio.CancelledError), telemetry.vendor_call("OutboundBot", "ListJobs"):
        raise asyncio.CancelledError
    assert not counted()


def test_whatever_codes_a_vendor_thinks_of_there_are_few_series(counted: Any) -> None:
    for number in range(500):
        error = PassingError("OutboundBot", "ListJobs", f"Code{number}")
        telemetry.metrics.called("OutboundBot", "ListJobs", 0.1, error)
    calls = {labels: count for labels, count in counted().items() if labels[0] == "vendor_calls"}
    assert len(calls) == telemetry.MOST_CODES + 1 and sum(calls.values()) == 500


async def test_a_halt_of_the_event_loop_weighs_as_much_as_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[float] = []
    monkeypatch.setattr(telemetry.metrics, "late", late.append)
    beat = telemetry.EVENT_LOOP_BEAT
    watch = asyncio.create_task(telemetry.watch_event_loop())
    await asyncio.sleep(0)
    halt(10.5 * beat)
    await asyncio.sleep(beat)
    watch.cancel()
    # Ten beats were due meanwhile: the first by nearly all of the halt, each later one by a beat less.
    assert len(late) >= 10 and late[0] >= 9 * beat
    assert all(before - after == pytest.approx(beat, abs=beat / 2) for before, after in pairwise(late[:10]))


def halt(seconds: float) -> None:
    """What no coroutine should do."""
    time.sleep(seconds)


async def test_the_counters_agree_with_the_database(sites: Sites, counted: Any) -> None:
    site = await sites(SimulatorOptions(calls_over=True, cancelled_rate=0.1, refusal_rate=0.3))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id)
    found = counted()

    def rows(step: str, outcome: str) -> int:
        return int(found["rows", f"outcome={outcome}", f"step={step}"])

    assert rows("dispatch", "assigned") == rows("job_ids", "matched") == 60
    assert {name: rows("conversations", name) for name in result["by_status"]} == result["by_status"]
    assert rows("recordings", "saved") == result["recordings"]
    assert rows("follow_ups", "analysed") == result["analysed"]
    assert {key: found["follow_ups", f"interest={key}"] for key in ("0", "1", "2")} == result["by_interest"]
    assert found["model_calls", "organization=org7", "outcome=answered"] == result["analysed"]
    refused = site.sql("SELECT COUNT(*) AS n FROM call_analyses WHERE do_not_call <> ''")[0]["n"]
    assert found["refusals", "organization=org7", "proof=said"] == refused > 0
    for direction in ("input", "output"):
        tokens = found["model_tokens", f"direction={direction}", "organization=org7", "outcome=answered"]
        assert tokens == result[f"{direction}_tokens"]
    calls = site.stats()["calls"]
    for action in ("AssignJobs", "ListJobs", "QueryJobsWithResult", "DownloadRecording"):
        told = found["vendor_calls", f"action={action}", "code=", "outcome=ok", "service=OutboundBot"]
        assert told == sum(calls[action].values()), action


async def test_the_age_of_the_oldest_unfinished_call(sites: Sites) -> None:
    site = await sites()
    site.enter_environment()
    row = {"leads_id": 1, "call_job_id": "job"}
    done = {**row, "call_status": "Succeeded", "leads_follow_id": 7, "is_interested": 1}
    database = Database(load(DatabaseSettings))
    monitoring = Monitoring(database, site.client)
    try:
        assert await monitoring._oldest_unfinished() == 0
        now = await database.now()
        hours = {number: database.wall_clock(now - timedelta(hours=number)) for number in (1, 3, 9)}
        # Finished, never called, and of a task that is over: none of them counts.
        site.old_task([{**done, "call_time": hours[9]}, {"leads_id": 2, "call_time": hours[9]}])
        site.old_task([{**row, "call_time": hours[9]}], task_type=4)
        assert await monitoring._oldest_unfinished() == 0
        site.old_task([{**done, "call_time": hours[9]}, {**row, "call_time": hours[1]}])
        assert await monitoring._oldest_unfinished() == pytest.approx(3600, abs=5)
        # Created long ago, handed over by ourselves two hours ago.
        task_id = site.old_task([{**row, "call_time": hours[9], "call_status": "Failed"}])
        [own] = site.rows(task_id)
        site.insert(
            "call_dispatches",
            [
                {
                    "task_id": task_id,
                    "first_id": own["id"],
                    "last_id": own["id"],
                    "attempted_at": (now - timedelta(hours=2)).replace(tzinfo=None),
                }
            ],
        )
        before = site.questions()
        assert await monitoring._oldest_unfinished() == pytest.approx(7200, abs=5)
        assert site.questions() - before <= 2, "one statement, and the one that counts them"
    finally:
        database.close()


# --- logs -----------------------------------------------------------------------------------------------------------


def record(message: str, *values: Any, **extra: Any) -> dict[str, Any]:
    """What JSON becomes of a line."""
    made = logging.getLogger("x").makeRecord("x", logging.INFO, "x.py", 1, message, values, None, extra=extra)
    text = JsonFormatter().format(made)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_of_an_activity_has_its_ids() -> None:
    details = {
        "activity_id": "7",
        "activity_type": "follow_up",
        "attempt": 2,
        "namespace": "crm",
        "task_queue": "analysis",
        "workflow_id": "call-task-42",
        "workflow_run_id": "run",
        "workflow_type": WORKFLOW,
    }
    line = record("%d calls", 3, temporal_activity=details)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "level": "INFO",
        "logger": "x",
        "message": "3 calls",
        "task_id": 42,
        "workflow_id": "call-task-42",
        "run_id": "run",
        "workflow_type": WORKFLOW,
        "activity_type": "follow_up",
        "activity_id": "7",
        "attempt": 2,
    }


def test_a_line_of_a_workflow_has_its_ids_and_another_line_none() -> None:
    line = record("x", temporal_workflow={"workflow_id": "monitor", "run_id": "run", "attempt": 1})
    assert (line["workflow_id"], line["run_id"], line["attempt"]) == ("monitor", "run", 1)
    assert "task_id" not in line
    assert record("two\nlines").keys() == {"time", "level", "logger", "message"}


def test_an_exception_is_one_field() -> None:
    try:
        raise ValueError("told")
    except ValueError:
        made = logging.getLogger("x").makeRecord("x", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())
    line = json.loads(JsonFormatter().format(made))
    assert line["message"] == "failed" and line["exception"].endswith("ValueError: told")


async def test_a_worker_logs_json_when_asked_to(sites: Sites, tmp_path: Path) -> None:
    site = await sites()
    site.add_leads(3)
    task_id = await site.create_task()
    worker = Program({**own_environment(), **site.environment, "LOG_FORMAT": "json"}, tmp_path / "worker", "worker.py")
    worker.start()
    try:
        result = await site.run(task_id)
    finally:
        assert worker.stop() == 0
    assert result["outcome"] == "complete"
    lines = [json.loads(line) for line in worker.said("err").splitlines()]
    assert any("worker ready" in line["message"] for line in lines)
    activities = [line for line in lines if "activity_id" in line]
    assert {"assign_contacts", "match_pages", "fetch_conversations", "follow_up"} <= {
        line["activity_type"] for line in activities
    }
    assert {line["task_id"] for line in activities} == {task_id}
    assert all(line["run_id"] and "{" not in line["message"].split("(")[0] for line in activities)
