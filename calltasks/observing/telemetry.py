"""What one worker counts and measures, for Prometheus; docs/operations.md has the table of it.

The Temporal SDK serves it beside its own metrics, on one port. Until :func:`start` is given an address, whatever is
recorded goes to a meter that does nothing. Labels hold ids of organisations, names and codes; nothing of a person.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, time
from types import NoneType

from temporalio.common import MetricCounter, MetricHistogramFloat, MetricMeter
from temporalio.runtime import LogForwardingConfig, LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig

from calltasks.errors import AccountError, DeclinedError, PermanentError, ServiceError, SettingsError, ThrottledError
from calltasks.observing import tracing
from calltasks.settings import TelemetrySettings

PREFIX = "call_tasks_"
MOST_CODES = 40
"""Different codes of vendors that get a label of their own in one process; what comes after them is ``other``."""
OUTCOMES = {NoneType: "ok", ThrottledError: "throttled", DeclinedError: "declined", PermanentError: "permanent"}
"""Of a request, by its error; an :class:`AccountError` is its kind, any other error ``passing``."""
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds; a call of the platform ends after 10, one of the model after 60."""
WAIT_BUCKETS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1000.0)
"""Seconds that work waits for a worker; the SDK's own buckets know nothing between 10 and 100."""

LATE_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; what waits longer than 0.1 is felt."""
EVENT_LOOP_BEAT = 0.1


class _Counts:
    """A counter with labels; each combination is prepared once, because a dictionary a call costs four times that."""

    def __init__(self, meter: MetricMeter, name: str, description: str, *labels: str) -> None:
        self._counter = meter.create_counter(PREFIX + name, description)
        self._labels = labels
        self._prepared: dict[tuple[str, ...], MetricCounter] = {}

    def add(self, value: int, *labels: str) -> None:
        prepared = self._prepared.get(labels)
        if prepared is None:
            named = dict(zip(self._labels, labels, strict=True))
            prepared = self._prepared[labels] = self._counter.with_additional_attributes(named)
        prepared.add(value)


class _Seconds:
    """A histogram of seconds with labels, prepared likewise."""

    def __init__(self, meter: MetricMeter, name: str, description: str, *labels: str) -> None:
        self._histogram = meter.create_histogram_float(PREFIX + name, description)
        self._labels = labels
        self._prepared: dict[tuple[str, ...], MetricHistogramFloat] = {}

    def record(self, value: float, *labels: str) -> None:
        prepared = self._prepared.get(labels)
        if prepared is None:
            named = dict(zip(self._labels, labels, strict=True))
            prepared = self._prepared[labels] = self._histogram.with_additional_attributes(named)
        prepared.record(value)


class Metrics:
    """Everything that the product itself measures. Safe to use from any thread."""

    def __init__(self, meter: MetricMeter) -> None:
        self._calls = _Counts(
            meter, "vendor_calls", "Requests to a vendor, by their outcome.", "service", "action", "outcome", "code"
        )
        self._call_seconds = _Seconds(
            meter, "vendor_call_seconds", "Time from a request to a vendor to its answer.", "service", "action"
        )
        self._wait_seconds = _Seconds(
            meter, "rate_limit_wait_seconds", "Time that a request waited for its turn under the rate limit.", "service"
        )
        self._model_calls = _Counts(
            meter, "model_calls", "Questions put to the model, by their outcome.", "organization", "outcome"
        )
        self._model_tokens = _Counts(
            meter, "model_tokens", "Tokens of the model.", "organization", "direction", "outcome"
        )
        self._refusals = _Counts(
            meter, "refusals", "Answers of the model that speak of a refusal of calls.", "organization", "proof"
        )
        self._fallback = meter.create_gauge(
            PREFIX + "model_fallback", "1 while ANALYSIS_FALLBACK_MODEL answers, because ANALYSIS_MODEL is not there."
        )
        self._rows = _Counts(meter, "rows", "Rows written, by step and outcome.", "step", "outcome")
        self._interest = _Counts(meter, "follow_ups", "Follow-ups written, by is_interested.", "interest")
        self._late_seconds = _Seconds(
            meter,
            "event_loop_late_seconds",
            "How much later than due the event loop came to its work, ten times a second.",
        )
        self._codes: set[str] = set()
        self._prepare_looks(meter)

    def _prepare_looks(self, meter: MetricMeter) -> None:
        """What is looked at now and then, by whoever happens to."""
        self._open = meter.create_gauge(PREFIX + "open", "Open call tasks at the monitor's last check.")
        self._oldest = meter.create_gauge_float(
            PREFIX + "oldest_unfinished_seconds", "Age of the oldest unfinished call at the monitor's last check."
        )
        self._checked = meter.create_gauge_float(
            PREFIX + "checked_timestamp_seconds", "Time of the last check of the monitor that this worker made."
        )
        self._waits = meter.create_gauge_float(
            PREFIX + "withdrawal_wait_seconds", "Since when a call waits whose customer has said no; 0: none does."
        )
        self._looked = meter.create_gauge_float(
            PREFIX + "withdrawal_look_timestamp_seconds", "Time of the last look at the opt-outs that this worker made."
        )
        self._told = _Counts(meter, "event_deliveries", "Requests to receivers of events, by outcome.", "outcome")
        self._told_events = meter.create_counter(PREFIX + "events_delivered", "Events that receivers took.")
        self._undelivered = meter.create_gauge_float(
            PREFIX + "event_oldest_seconds", "Age of the oldest event that a receiver waits for, at the last look."
        )
        self._watched = meter.create_gauge_float(
            PREFIX + "events_watched_timestamp_seconds", "Time of the last look for events that this worker made."
        )

    def called(self, service: str, action: str, seconds: float, error: ServiceError | None) -> None:
        """One request to a vendor was answered, or failed."""
        outcome = next((name for kind, name in OUTCOMES.items() if isinstance(error, kind)), "passing")
        if isinstance(error, AccountError):
            outcome = error.kind
        self._calls.add(1, service, action, outcome, self._code(error))
        self._call_seconds.record(seconds, service, action)

    def waited(self, service: str, seconds: float) -> None:
        """One request waited so long for its turn."""
        self._wait_seconds.record(seconds, service)

    def late(self, seconds: float) -> None:
        """The event loop came to what was due so much later."""
        self._late_seconds.record(seconds)

    def asked(self, organization_id: str, outcome: str) -> None:
        """The model was asked about one call: ``answered``, ``unreadable``, ``refused`` (for good) or ``failed``."""
        self._model_calls.add(1, organization_id, outcome)

    def spent(self, organization_id: str, outcome: str, input_tokens: int, output_tokens: int) -> None:
        """The model's answer cost so many tokens; ``outcome`` as in :meth:`asked`."""
        self._model_tokens.add(input_tokens, organization_id, "input", outcome)
        self._model_tokens.add(output_tokens, organization_id, "output", outcome)

    def refused(self, organization_id: str, proof: str) -> None:
        """The model says that a customer refuses further calls: it is ``said`` in the call, or ``unproven``."""
        self._refusals.add(1, organization_id, proof)

    def fell_back(self, on: bool) -> None:
        """The fallback model answers from now on, or no longer."""
        self._fallback.set(int(on))

    def wrote(self, step: str, outcome: str, count: int = 1) -> None:
        """A step wrote so many rows that came out so."""
        self._rows.add(count, step, outcome)

    def followed_up(self, interest: str) -> None:
        """A follow-up of this ``is_interested`` was written."""
        self._interest.add(1, interest)

    def checked(self, open_tasks: int, oldest_seconds: float) -> None:
        """The monitor looked at the open tasks."""
        self._open.set(open_tasks)
        self._oldest.set(max(0.0, oldest_seconds))
        self._checked.set(time())

    def looked(self, wait_seconds: float) -> None:
        """The opt-outs were looked at: so long ago the oldest was seen of which a call may be begun yet."""
        self._waits.set(wait_seconds)
        self._looked.set(time())

    def watched(self, oldest_seconds: float) -> None:
        """Somebody looked for events that receivers wait for."""
        self._undelivered.set(oldest_seconds)
        self._watched.set(time())

    def told(self, outcome: str, events: int) -> None:
        """A receiver was sent so many events: ``ok``, or what went wrong."""
        self._told.add(1, outcome)
        if outcome == "ok":
            self._told_events.add(events)

    def _code(self, error: ServiceError | None) -> str:
        """The vendor's code, as far as there is room for another label."""
        code = error.code if error else ""
        if code not in self._codes and len(self._codes) >= MOST_CODES:
            return "other"
        self._codes.add(code)
        return code


metrics = Metrics(MetricMeter.noop)
"""This process's. Use it as ``telemetry.metrics``: :func:`start` puts another one in its place."""


def start(settings: TelemetrySettings) -> Runtime | None:
    """Serve the metrics from now on; returns the SDK's runtime to connect with, None for its default one.

    Raises:
        SettingsError: nothing can listen at ``METRICS_ADDRESS``.
    """
    global metrics
    address, as_json = settings.metrics_address, settings.log_format == "json"
    if not address and not as_json:
        return None
    endpoint = PrometheusConfig(
        bind_address=address,
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
        histogram_bucket_overrides={
            PREFIX + "vendor_call_seconds": BUCKETS,
            PREFIX + "rate_limit_wait_seconds": BUCKETS,
            PREFIX + "event_loop_late_seconds": LATE_BUCKETS,
            "activity_schedule_to_start_latency": WAIT_BUCKETS,
        },
    )
    # The SDK's own lines go to stderr by themselves, and are no JSON then.
    forwarding = LogForwardingConfig(logging.getLogger("temporalio.core")) if as_json else None
    try:
        runtime = Runtime(
            telemetry=TelemetryConfig(
                logging=LoggingConfig(LoggingConfig.default.filter, forwarding=forwarding),
                metrics=endpoint if address else None,
                attach_service_name=False,
            )
        )
    except ValueError as error:
        reason = str(error).rpartition("exporter: ")[2]
        raise SettingsError(f"settings: METRICS_ADDRESS {address}: nothing can listen there: {reason}") from None
    metrics = Metrics(runtime.metric_meter)
    return runtime


async def watch_event_loop() -> None:
    """Measure every ``EVENT_LOOP_BEAT`` seconds how late this event loop is, until cancelled.

    While it is held up every beat is due that falls into that time, and counts as late as it is: a long halt weighs as
    much as it lasts.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        due += EVENT_LOOP_BEAT
        await asyncio.sleep(due - loop.time())
        metrics.late(max(0.0, loop.time() - due))


@contextmanager
def vendor_call(service: str, action: str) -> Iterator[None]:
    """Measure the request within: count it by its outcome, and make it a span of its trace.

    What was not sent, or is no longer waited for, ends with another error than a :class:`ServiceError`, and says
    nothing about the vendor: it is not counted.
    """
    begin = monotonic()
    try:
        with tracing.span(f"{service} {action}"):
            yield
    except ServiceError as error:
        metrics.called(service, action, monotonic() - begin, error)
        raise
    metrics.called(service, action, monotonic() - begin, None)
