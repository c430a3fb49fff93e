"""The language model: DashScope through its SDK (asynchronous, pooled, SDK retries off).

One question, one answer text. With ``ANALYSIS_APP_ID`` a Bailian application answers instead of a bare model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx
from dashscope import AsyncClient
from dashscope.v2 import errors
from dashscope.v2.resources.apps import AppCompletion
from httpx_aiohttp import HttpxAiohttpClient

from clients import telemetry
from clients.errors import PassingError, PermanentError, ServiceError, ThrottledError
from clients.limiter import RateLimiter
from settings import AnalysisSettings

SERVICE = "DashScope"
TIMEOUT_SECONDS = 60.0
CONNECT_SECONDS = 5.0
ANSWER_CHARACTERS = 50_000
"""A longer answer cannot be a judgement."""
MOST_TOKENS = 1_000_000_000
THROTTLED_TRIES = 8
THROTTLED_SECONDS = 30.0

PERMANENT = (
    errors.AuthenticationError,
    errors.PermissionDeniedError,
    errors.BadRequestError,
    errors.NotFoundError,
    errors.RequestTooLargeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model answered, and what it cost in tokens."""

    text: str
    input_tokens: int
    output_tokens: int


class AnalysisModel:
    """The configured model or application, shared by a whole process.

    Attributes:
        name: the model's name, or ``app:`` and the application's id.
    """

    def __init__(self, settings: AnalysisSettings, limiter: RateLimiter) -> None:
        self._app_id = settings.analysis_app_id
        self._model = settings.analysis_model
        self.name = f"app:{self._app_id}" if self._app_id else self._model
        self.limiter = limiter
        key = settings.dashscope_api_key.get_secret_value()
        base_url = settings.dashscope_http_base_url.rstrip("/")
        limits = httpx.Limits(
            max_connections=settings.analysis_concurrency, max_keepalive_connections=settings.analysis_concurrency
        )
        # aiohttp carries the same SDK at a third of the CPU; a client of our own must bring the key itself.
        self._http = HttpxAiohttpClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS),
            limits=limits,
        )
        self._client = AsyncClient(api_key=key, base_url=base_url, max_retries=0, http_client=self._http)

    async def complete(self, *, system: str, user: str, tenant: str) -> Completion:
        """Ask the model once, in its turn and as often as it asks us to slow down.

        Args:
            system: what it shall do.
            user: what it shall do it with.
            tenant: the organisation on whose behalf, for fair shares of the rate limit.

        Raises:
            PassingError: out of reach, or an answer that cannot be read.
            PermanentError: refused (content filter, key, account).
        """
        for attempt in range(1, THROTTLED_TRIES + 1):
            begin = monotonic()
            async with self.limiter.slot(tenant=tenant, priority=1):
                telemetry.metrics.waited(SERVICE, monotonic() - begin)
                try:
                    with telemetry.vendor_call(SERVICE, "completion"):
                        return await self._ask(system, user)
                except ThrottledError as error:
                    if attempt == THROTTLED_TRIES:
                        raise
                    wait = error.retry_after or min(2.0**attempt / 2, THROTTLED_SECONDS)
            await self.limiter.slow_down(wait)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._http.aclose()

    async def _ask(self, system: str, user: str) -> Completion:
        try:
            if self._app_id:
                app = await self._client.apps.completions.create(app_id=self._app_id, prompt=f"{system}\n\n{user}")
                assert isinstance(app, AppCompletion)
                text, input_tokens, output_tokens = app.text, *_app_tokens(app.usage)
            else:
                chat = await self._client.chat.completions.create(
                    model=self._model,
                    messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
                    response_format={"type": "json_object"},
                )
                text = chat.output_text
                usage = chat.usage
                input_tokens = getattr(usage, "input_tokens", None) or 0
                output_tokens = getattr(usage, "output_tokens", None) or 0
        except Exception as error:
            raise translate(error) from None
        if not isinstance(text, str) or len(text) > ANSWER_CHARACTERS:
            raise PassingError(SERVICE, "completion", "UnreadableAnswer")
        return Completion(text=text, input_tokens=_count(input_tokens), output_tokens=_count(output_tokens))


def _app_tokens(usage: Any) -> tuple[int, int]:
    models = getattr(usage, "models", None) or []
    counts = [model if isinstance(model, Mapping) else vars(model) for model in models]
    return (
        sum(_count(count.get("input_tokens")) for count in counts),
        sum(_count(count.get("output_tokens")) for count in counts),
    )


def _count(value: Any) -> int:
    """A number of tokens; what is none, or more than a column holds, counts as 0."""
    return value if isinstance(value, int) and 0 < value < MOST_TOKENS else 0


def translate(error: Exception) -> ServiceError:
    """The typed error for whatever the SDK raised."""
    if not isinstance(error, errors.DashScopeError):
        return PassingError(SERVICE, "completion", type(error).__name__)
    code = str(error.code or type(error).__name__)
    request_id = str(error.request_id or "")
    if isinstance(error, errors.RateLimitError) or code.startswith("Throttling"):
        retry_after = _seconds(error.headers.get("retry-after"))
        return ThrottledError(SERVICE, "completion", code, request_id=request_id, retry_after=retry_after)
    if isinstance(error, PERMANENT):
        return PermanentError(SERVICE, "completion", code, request_id=request_id)
    return PassingError(SERVICE, "completion", code, request_id=request_id)


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
