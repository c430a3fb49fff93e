"""The language model: DashScope through its SDK (asynchronous, pooled, SDK retries off).

One question, one answer text. With ``ANALYSIS_APP_ID`` a Bailian application answers instead of a bare model. Bodies
are read here: the SDK's own models refuse a whole answer for an odd count of tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from dashscope import AsyncClient
from dashscope.v2.errors import check_response
from yarl import URL

from calltasks.errors import AccountError, PassingError, PermanentError, ThrottledError, UnreadableAnswerError
from calltasks.limiter import RateLimiter
from calltasks.model.errors import SERVICE, is_gone, is_sure, refuses_format, translate
from calltasks.model.transport import Transport
from calltasks.names import Turn
from calltasks.observing import telemetry
from calltasks.rules.judgement import SCHEMA, version
from calltasks.settings import AnalysisSettings

ANSWER_CHARACTERS = 50_000
"""A longer answer cannot be a judgement."""
MOST_TOKENS = 1_000_000_000
THROTTLED_TRIES = 8
UNSURE_TRIES = 4
"""As many for a 429 whose code is not known: it may mean something that no waiting mends."""
LONGEST_WAIT = 120.0
"""Seconds that all wait at most because the service asks for it; limits by the minute are over by then."""
REFUSALS = 5
"""So many refusals of the account in a row, and nothing is asked for ``REFUSED_SECONDS``: every call gets the same."""
REFUSED_SECONDS = 10.0
RETIRED_SECONDS = 600.0
"""So long the fallback answers before one call asks the model again that was not there."""
THINKS = re.compile(r"(?:qwen3|deepseek-v3\.|glm-4\.)(?!.*(?:instruct|coder|thinking))", re.IGNORECASE)
"""Models that think unless they are told not to."""
STRICT = {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": SCHEMA}}
GENERATION = "/services/aigc/text-generation/generation"
FINISHED = ("", "null", "stop")
"""Reasons that an answer ended for which it is whole; some services name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model answered, and what it cost in tokens."""

    text: str
    input_tokens: int
    output_tokens: int
    model: str


class AskOtherwiseError(PermanentError):
    """The model is not there, or does not know the form of the answer: the same question can be put in another way."""


class AnalysisModel:
    """The configured model or application, shared by a whole process.

    Attributes:
        name: the model's name, or ``app:`` and the application's id.
        fallback: the model that answers while that one is not there; or ``""``.
        endpoint: where it is asked, without the path.
        version: of its judgements.
        under_way: calls that one worker may have under way.
        second: who judges first judgements once more, for people to compare; None: nobody.
        second_tokens: what that may cost a task.
    """

    def __init__(self, settings: AnalysisSettings, limiter: RateLimiter, second: AnalysisModel | None = None) -> None:
        self._app_id = settings.analysis_app_id
        self.name = f"app:{self._app_id}" if self._app_id else settings.analysis_model
        fallback = settings.analysis_fallback_model
        self.fallback = "" if self._app_id or fallback == self.name else fallback
        self.version, self._sampling = version(settings.sampling), settings.sampling
        self.under_way = settings.under_way
        self._format = settings.analysis_response_format
        self._with_schema: set[str] = set()
        self._without_schema: set[str] = set()
        self._retired_until: float | None = None
        telemetry.metrics.fell_back(False)
        self.limiter = limiter
        self._refusals = 0
        self._refused_until = 0.0
        self._refusal: AccountError
        self._path = f"/apps/{self._app_id}/completion" if self._app_id else GENERATION
        key = settings.dashscope_api_key.get_secret_value()
        base_url = settings.dashscope_http_base_url.rstrip("/")
        url = URL(base_url)
        self.endpoint = str(url.origin())
        self._http = Transport(base_url, key, self.under_way)
        self._client = AsyncClient(api_key=key, base_url=base_url, max_retries=0, http_client=self._http)
        self.second, self.second_tokens = second, settings.analysis_second_tokens

    async def complete(self, *, system: str, user: str, tenant: str) -> Completion:
        """Ask the model once, in its turn and as often as it asks us to slow down.

        Args:
            system: what it shall do.
            user: what it shall do it with.
            tenant: the organisation on whose behalf, for fair shares of the rate limit.

        Raises:
            UnreadableAnswerError: an answer that was paid for and cannot be a judgement.
            PassingError: out of reach, or throttled for so long that the call is better set aside.
            AccountError: nothing is answered before a person has paid, permitted or set something.
            PermanentError: this question is refused (content filter).
        """

        async def request() -> Completion:
            self._let_pass()
            try:
                with telemetry.vendor_call(SERVICE, "completion"):
                    return await self._ask(system, user)
            except AccountError as error:
                self._refusals, self._refusal = self._refusals + 1, error
                self._refused_until = monotonic() + REFUSED_SECONDS
                raise

        self._let_pass()
        turn = Turn.ANALYSES
        while True:
            try:
                return await self.limiter.ask(
                    request, service=SERVICE, tenant=tenant, priority=turn, patience=_patience
                )
            except AskOtherwiseError:
                # Each model is refused once and each form once: this ends.
                continue

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._http.aclose()
        if self.second is not None:
            await self.second.close()

    def _let_pass(self) -> None:
        """Raise what the account was refused with just now, time and again: thousands need not ask to be told so."""
        if self._refusals >= REFUSALS and monotonic() < self._refused_until:
            last = self._refusal
            raise AccountError(SERVICE, "completion", last.code, kind=last.kind, hint=last.hint)

    def _turn(self) -> str:
        """Which model is asked: the fallback while the other is gone; now and then one call tries that again."""
        if self._retired_until is None:
            return self.name
        if monotonic() < self._retired_until:
            return self.fallback
        self._retired_until = monotonic() + RETIRED_SECONDS
        return self.name

    def _refused(self, model: str, strict: bool, error: Exception) -> Exception:
        """What a refusal is raised as; what it says of model and form is kept for the next calls."""
        if strict and self._format == "auto" and refuses_format(error, known=model in self._with_schema):
            self._without_schema.add(model)
            return AskOtherwiseError(SERVICE, "completion", "NoJsonSchema")
        refusal = translate(error)
        if self.fallback and model == self.name and isinstance(refusal, AccountError) and is_gone(refusal):
            self._retired_until = monotonic() + RETIRED_SECONDS
            telemetry.metrics.fell_back(True)
            return AskOtherwiseError(SERVICE, "completion", refusal.code)
        return refusal

    def _is_strict(self, model: str) -> bool:
        return not self._app_id and self._format != "json_object" and model not in self._without_schema

    async def _ask(self, system: str, user: str) -> Completion:
        model = self._turn()
        strict = self._is_strict(model)
        try:
            response = await self._client.transport.request(
                "POST",
                self._path,
                json=self._question(model, strict, system, user),
                sdk_module="app" if self._app_id else "aigc",
            )
            check_response(response)
        except Exception as error:
            raise self._refused(model, strict, error) from None
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise PassingError(SERVICE, "completion", "UnreadableAnswer")
        self._refusals = 0
        if strict:
            self._with_schema.add(model)
        if model == self.name and self._retired_until is not None:
            self._retired_until = None
            telemetry.metrics.fell_back(False)
        return self._completion(model, body)

    def _question(self, model: str, strict: bool, system: str, user: str) -> dict[str, Any]:
        if self._app_id:
            return {"input": {"prompt": f"{system}\n\n{user}"}, "parameters": {}}
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        parameters: dict[str, Any] = {"result_format": "message", **self._sampling}
        parameters["response_format"] = STRICT if strict else {"type": "json_object"}
        if THINKS.match(model):
            parameters["enable_thinking"] = False
        return {"model": model, "input": {"messages": messages}, "parameters": parameters}

    def _completion(self, model: str, body: dict[str, Any]) -> Completion:
        output = _mapping(body.get("output"))
        choices = output.get("choices")
        choice = _mapping(choices[0]) if isinstance(choices, list) and choices else output
        text = _text(_mapping(choice.get("message")).get("content") if "message" in choice else choice.get("text"))
        reason = _reason(choice.get("finish_reason"))
        usage = body.get("usage")
        tokens = {
            "input_tokens": _tokens(usage, "input_tokens", "prompt_tokens"),
            "output_tokens": _tokens(usage, "output_tokens", "completion_tokens"),
        }
        problem = "" if reason in FINISHED else f"Unfinished.{reason}"
        problem = problem or ("" if text.strip() else "NoAnswer")
        problem = problem or ("" if len(text) <= ANSWER_CHARACTERS else "UnreadableAnswer")
        if problem:
            request_id = str(body.get("request_id") or "")
            raise UnreadableAnswerError(SERVICE, "completion", problem, request_id=request_id, model=model, **tokens)
        return Completion(text=text, model=model, **tokens)


def _patience(error: ThrottledError) -> int:
    if (error.retry_after or 0.0) > LONGEST_WAIT:
        return 1
    return THROTTLED_TRIES if is_sure(error) else UNSURE_TRIES


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _reason(value: Any) -> str:
    """Why the answer ended: a word, ``""`` if none was given."""
    word = str(value or "").lower()
    return word if re.fullmatch(r"[a-z_]{0,30}", word) else "other"


def _text(content: Any) -> str:
    """The words of a message: a text, parts of one (thoughts are none), or an object that was taken apart already."""
    if isinstance(content, list):
        parts = [_mapping(part) for part in content if not isinstance(part, str)]
        words = [part.get("text") for part in parts if part.get("type") in (None, "text", "output_text")]
        return "".join(word for word in [*words, *content] if isinstance(word, str))
    if isinstance(content, Mapping):
        text = content.get("text")
        return text if isinstance(text, str) else json.dumps(content, ensure_ascii=False)
    return content if isinstance(content, str) else ""


def _tokens(usage: Any, *names: str) -> int:
    """Tokens by one of these names; an application counts them for each of its models."""
    models = _mapping(usage).get("models")
    parts = models if isinstance(models, list) and models else usage if isinstance(usage, list) else [usage]
    counts = [[_count(_mapping(part).get(name)) for name in names] for part in parts]
    return _count(sum(next(filter(None, count), 0) for count in counts))


def _count(value: Any) -> int:
    """A number of tokens; what is none, or more than a column holds, counts as 0."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST_TOKENS else 0
