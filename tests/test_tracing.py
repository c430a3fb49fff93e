"""Traces: from a start to each request to a vendor, and nothing of them is about a person."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from temporalio.client import WorkflowHistory
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.worker import Replayer

from calltasks.names import WORKFLOW
from calltasks.observing import tracing
from calltasks.temporal.connection import connect
from simulators import SimulatorOptions
from tests.pipeline import QUICK, Sites
from tests.test_privacy import FAULTS, personal, said_of
from tests.test_replay import HISTORIES, read
from worker import SANDBOX
from workflows.call_task import CallTaskWorkflow
from workflows.events import EventsWorkflow
from workflows.monitor import MonitorWorkflow
from workflows.withdraw import WithdrawWorkflow


class Collector(ThreadingHTTPServer):
    """Takes traces in, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    def spans(self) -> list[Span]:
        sent = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span for one in sent for part in one.resource_spans for scope in part.scope_spans for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector) and self.path == "/v1/traces"
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *values: Any) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Tracing is on, for this process, and goes to this collector."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setattr(tracing, "_tracer", None)
        tracing.provider.cache_clear()
        try:
            yield server
        finally:
            tracing.provider().shutdown()
            tracing.provider.cache_clear()
            server.shutdown()
            thread.join()


def test_without_an_endpoint_nothing_is_traced() -> None:
    assert tracing.interceptors() == []


async def test_a_start_is_traced_to_each_request_and_says_nothing_personal(sites: Sites, collector: Collector) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    site.enter_environment()
    site.client = await connect()
    site.add_leads(110)
    task_id = await site.create_task()
    site.sim.set_faults(*FAULTS)
    async with site.working():
        result = await site.run(task_id, QUICK)
        await site.progress(task_id)
    assert result["outcome"] == "complete"
    assert await asyncio.to_thread(tracing.provider().force_flush)
    spans = collector.spans()
    [start] = [span for span in spans if span.name == f"StartWorkflow:{WORKFLOW}"]
    run = {span.name for span in spans if span.trace_id == start.trace_id}
    assert {f"RunWorkflow:{WORKFLOW}", "StartActivity:follow_up", "RunActivity:follow_up"} <= run
    assert {"OutboundBot AssignJobs", "OutboundBot ListJobs", "DashScope completion"} <= run
    parents = {span.span_id: span.name for span in spans}
    asked = [span for span in spans if span.name == "OutboundBot AssignJobs"]
    assert {parents[span.parent_span_id] for span in asked} == {"RunActivity:assign_contacts"}
    assert any(span.status.code == span.status.STATUS_CODE_ERROR for span in spans), "the faults are shown"
    words = personal(site)
    said = "\n".join(body.decode("utf-8", "replace") for body in collector.bodies)
    assert len(words) > 50 and len(spans) > 100
    assert not said_of(words, said)


async def test_a_traced_run_replays_with_and_without_tracing_and_grows_by_headers_only(
    sites: Sites, collector: Collector
) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    site.enter_environment()
    plain = site.client
    traced = await connect()
    histories: list[WorkflowHistory] = []
    for client in (plain, traced):
        site.client = client
        site.add_leads(20, first=1 + 20 * len(histories), organization=f"org{len(histories)}")
        task_id = await site.create_task(organization=f"org{len(histories)}")
        async with site.working():
            handle = await client.start_workflow(
                WORKFLOW,
                {"task_id": task_id, "options": QUICK.model_dump()},
                id=f"call-task-{task_id}",
                task_queue="call-tasks",
            )
            await handle.result()
        histories.append(await handle.fetch_history())
    for interceptors in ([], [TracingInterceptor(tracing.provider().get_tracer("x"))]):
        replayer = Replayer(workflows=[CallTaskWorkflow], workflow_runner=SANDBOX, interceptors=interceptors)
        for history in histories:
            await replayer.replay_workflow(history)
    bare, told = histories
    headers = [
        event.activity_task_scheduled_event_attributes.header.ByteSize()
        for event in told.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert headers and max(headers) < 200
    assert not any(
        event.activity_task_scheduled_event_attributes.header.ByteSize()
        for event in bare.events
        if event.HasField("activity_task_scheduled_event_attributes")
    )


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_history_without_traces_replays_when_tracing_is_on(path: Path, collector: Collector) -> None:
    tracer = TracingInterceptor(tracing.provider().get_tracer("x"))
    workflows = [CallTaskWorkflow, MonitorWorkflow, WithdrawWorkflow, EventsWorkflow]
    replayer = Replayer(workflows=workflows, workflow_runner=SANDBOX, interceptors=[tracer])
    await replayer.replay_workflow(read(path))
