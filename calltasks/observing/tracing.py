"""Traces by OpenTelemetry, where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set; its other ``OTEL_`` variables hold too.

Spans hold ids, names and codes. What workflows and activities are given and return is no part of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from temporalio.client import Interceptor

from calltasks.settings import TracingSettings, load

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

SERVICE_NAME = "call-task-pipeline"
"""Unless ``OTEL_SERVICE_NAME`` says something else."""

_tracer: Tracer | None = None


def interceptors() -> list[Interceptor]:
    """What a connection to Temporal needs so that its calls, workflows and activities are traced; none: off.

    Raises:
        SettingsError: the endpoint is no URL.
    """
    global _tracer
    if not load(TracingSettings).otel_exporter_otlp_endpoint:
        return []
    # Only who traces pays for these imports.
    from temporalio.contrib.opentelemetry import TracingInterceptor

    _tracer = provider().get_tracer(SERVICE_NAME)
    return [TracingInterceptor(_tracer)]


@cache
def provider() -> TracerProvider:
    """This process's; it sends in the background and, at the end of the process, what is left.

    It is not made OpenTelemetry's global one: a vendor's SDK that finds a global one may put prompts into its spans.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource({"service.name": SERVICE_NAME}).merge(OTELResourceDetector().detect())
    made = TracerProvider(resource=named)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


def span(name: str) -> AbstractContextManager[Any]:
    """A span around a request; nothing where tracing is off."""
    return nullcontext() if _tracer is None else _tracer.start_as_current_span(name)
