"""DashScope: the text generation endpoint and Bailian applications, with a model that reads the transcript."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from aiohttp import web

from simulators.faults import Fault, Faults
from simulators.gateway import JSON, broken_answer
from simulators.judge import judge_prompt
from simulators.options import DASHSCOPE_API_KEY, SimulatorOptions
from simulators.stats import Limiter, Stats

GENERATION = "/api/v1/services/aigc/text-generation/generation"
APPLICATION = re.compile(r"/api/v1/apps/([^/]+)/completion")
_THINKS = re.compile(r"qwen3-\d(?!.*(?:instruct|coder|thinking))")
"""Open models that think unless they are told not to, and cannot think where an answer does not come in a stream."""
_WRONG_VALUES: tuple[dict[str, Any], ...] = (
    {"is_interested": "maybe"},
    {"is_interested": 7},
    {"is_interested": "1 or 2"},
    {"is_interested": None},
    {"leads_remark": None},
    {"leads_remark": ""},
    {"leads_remark": 12},
    {"is_interested": True},
    {"is_interested": 1.5},
)


class Refusal(Exception):
    """An answer of HTTP status `status` with DashScope's error `code`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


_REFUSALS = {
    "status_429": (429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later."),
    "status_500": (500, "InternalError", "An internal error has occurred, please try again later."),
    "content_filter": (400, "DataInspectionFailed", "Input data may contain inappropriate content."),
    "invalid_key": (401, "InvalidApiKey", "Invalid API-key provided."),
    "arrears": (400, "Arrearage", "Access denied, please make sure your account is in good standing."),
    "unpaid": (429, "PostpaidBillOverdue", "The postpaid bill is overdue."),
    "free_quota": (429, "Throttling.AllocationQuota", "Free allocated quota exceeded."),
    "thinking": (400, "InvalidParameter", "parameter.enable_thinking must be set to false for non-streaming calls"),
}


class Model:
    """Answers the HTTP requests of DashScope's clients."""

    def __init__(self, options: SimulatorOptions, faults: Faults, stats: Stats) -> None:
        self._options = options
        self._faults = faults
        self._stats = stats
        self._limiter = Limiter(options.qpm, 60.0)
        self._numbers = count(1)
        self._random = random.Random(options.seed)
        self.down = False
        self.json_schema = options.json_schema
        self.retired = set(filter(None, options.retired_models.split(",")))

    def switch(
        self, *, down: bool | None = None, json_schema: bool | None = None, retired: list[str] | None = None
    ) -> dict[str, Any]:
        """Change what is given: down for all, held to schemas, models that are not there. Returns how it is now.

        Raises:
            ValueError: a value of another type.
        """
        for value in (down, json_schema):
            if not isinstance(value, bool | None):
                raise ValueError("down and json_schema must be true or false")
        if retired is not None and not (isinstance(retired, list) and all(isinstance(name, str) for name in retired)):
            raise ValueError("retired must be a list of names")
        self.down = self.down if down is None else down
        self.json_schema = self.json_schema if json_schema is None else json_schema
        self.retired = self.retired if retired is None else set(retired)
        return {"down": self.down, "json_schema": self.json_schema, "retired": sorted(self.retired)}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._stats.arrived(model=True, moment=time.monotonic())
        request_id = f"{next(self._numbers):08x}-0000-9000-8000-{id(request) & 0xFFFFFFFFFFFF:012x}"
        raw = await request.read()
        if self._options.model_latency[1] > 0:
            await asyncio.sleep(self._random.uniform(*self._options.model_latency))
        try:
            if request.headers.get("Authorization") != f"Bearer {DASHSCOPE_API_KEY}":
                raise Refusal(*_REFUSALS["invalid_key"])
            if self.down:
                raise Refusal(503, "ServiceUnavailable", "The service is unavailable, please try again later.")
            fault = self._faults.strike("model")
            if fault and fault.kind in _REFUSALS:
                status, code, message = _REFUSALS[fault.kind]
                raise Refusal(status, fault.code or code, message)
            if fault and (broken := await broken_answer(request, fault)):
                self._stats.ended("model", fault.kind)
                return broken
            if not self._limiter.passes(time.monotonic()):
                raise Refusal(*_REFUSALS["status_429"])
            answer = self._answer(request.path, _object(raw), fault, request_id)
        except Refusal as refusal:
            self._stats.ended("model", refusal.code)
            error = {"code": refusal.code, "message": refusal.message, "request_id": request_id}
            return web.Response(status=refusal.status, body=json.dumps(error).encode(), content_type=JSON)
        self._stats.ended("model", fault.kind if fault else "ok")
        return web.Response(body=json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"), content_type=JSON)

    def _let_ask(self, model: Any, parameters: dict[str, Any], prompt: str) -> None:
        """Raises Refusal if this model is not there, or is asked for what it cannot do."""
        if not isinstance(model, str):
            raise Refusal(400, "InvalidParameter", "model must be set.")
        wanted, thinking = parameters.get("response_format"), parameters.get("enable_thinking")
        self._stats.asked(model, wanted, thinking)
        if model in self.retired:
            raise Refusal(404, "ModelNotFound", "The model does not exist or you do not have access to it.")
        if _THINKS.match(model) and thinking is not False:
            raise Refusal(*_REFUSALS["thinking"])
        form = wanted.get("type") if isinstance(wanted, dict) else None
        if form == "json_object" and "json" not in prompt.lower():
            raise Refusal(400, "InvalidParameter", "'messages' must contain the word 'json' in some form.")
        if form == "json_schema" and not self.json_schema:
            raise Refusal(400, "InvalidParameter", "'response_format.type' json_schema is not supported.")

    def _answer(self, path: str, body: dict[str, Any], fault: Fault | None, request_id: str) -> dict[str, Any]:
        """Raises Refusal for a request that the service would not take."""
        application = APPLICATION.fullmatch(path)
        if path != GENERATION and not application:
            raise Refusal(404, "InvalidURL", "The requested URL is not found.")
        given = body.get("input") if isinstance(body.get("input"), dict) else {}
        assert isinstance(given, dict)
        prompt = _prompt(given)
        parameters = body.get("parameters") if isinstance(body.get("parameters"), dict) else {}
        assert isinstance(parameters, dict)
        if not application:
            self._let_ask(body.get("model"), parameters, prompt)
        text = _spoil(judge_prompt(prompt), fault, next(self._numbers))
        reason = "length" if fault and fault.kind == "unfinished" else "stop"
        tokens_in, tokens_out = _tokens(prompt), _tokens(text)
        self._stats.input_tokens += tokens_in
        self._stats.output_tokens += tokens_out
        usage: dict[str, Any] = {"input_tokens": tokens_in, "output_tokens": tokens_out}
        if application:
            models = [{"model_id": "qwen-plus", **usage}]
            output: dict[str, Any] = {"text": text, "finish_reason": reason, "session_id": request_id.replace("-", "")}
            return {"output": output, "usage": {"models": models}, "request_id": request_id}
        usage["total_tokens"] = tokens_in + tokens_out
        if parameters.get("result_format") == "message":
            message = {"role": "assistant", "content": text}
            output = {"choices": [{"finish_reason": reason, "message": message}]}
        else:
            output = {"text": text, "finish_reason": reason}
        return {"request_id": request_id, "output": output, "usage": usage}


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "InvalidParameter", "The request body is not a valid JSON object.")
    return body


def _prompt(given: dict[str, Any]) -> str:
    """All text of the request, in order."""
    if isinstance(given.get("prompt"), str) and given["prompt"]:
        return str(given["prompt"])
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "InvalidParameter", "Either prompt or messages must be set.")
    texts = [message.get("content") for message in messages if isinstance(message, dict)]
    if not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "InvalidParameter", "content must be a string.")
    return "\n".join(map(str, texts))


def _tokens(text: str) -> int:
    """About what the vendor counts: 0.6 a Chinese character (three bytes in UTF-8), a quarter of one for others."""
    wide = (len(text.encode("utf-8", "replace")) - len(text)) // 2
    return max(1, int(wide * 0.6 + (len(text) - wide) * 0.25))


def _spoil(answer: dict[str, Any], fault: Fault | None, number: int) -> str:
    spoilers: dict[str, Callable[[], Any]] = {
        "wrong_type": lambda: answer.update(_WRONG_VALUES[number % len(_WRONG_VALUES)]),
        "fickle": lambda: answer.update(is_interested=number % 3, leads_remark=f"第{number}次判断的结果，与前次不同。"),
        "enormous": lambda: answer.update(leads_remark="客户说了很多。" * 50_000),
        "past_time": lambda: answer.update(next_follow_time="2001-01-01 09:00:00"),
        "nonsense_time": lambda: answer.update(next_follow_time="下个月第三十二天 25:61"),
    }
    kind = fault.kind if fault else ""
    if kind in spoilers:
        spoilers[kind]()
    if kind == "wrong_type" and number % 10 == 9:
        answer.pop("leads_remark")
    text = json.dumps(answer, ensure_ascii=False)
    if kind == "invalid_json":
        return text[: len(text) // 2]
    if fault and kind == "wrapped":
        return fault.code.replace("{answer}", text)
    return f"```json\n{text}\n```" if kind == "fenced_json" else text
