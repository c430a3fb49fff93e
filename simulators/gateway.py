"""OutboundBot's gateway: signature, limits, faults, the envelope of every answer."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from itertools import count
from urllib.parse import unquote_plus

from aiohttp import web

from simulators.faults import Fault, Faults
from simulators.options import ACCESS_KEY_ID, ACCESS_KEY_SECRET, SimulatorOptions
from simulators.outbound_bot import OutboundBot, error_body
from simulators.signature import ApiError, SignatureCheck
from simulators.stats import Limiter, Stats

JSON = "application/json"
_AFTER_ACTION = frozenset({"lost_answer", "lost_late"})
_WRONG_SHAPES = (
    b'"Jobs":"none","JobGroups":[],"JobGroup":"none","DownloadParams":[1,2],"JobsId":{"a":1}',
    b'"Jobs":[[1],"x",null],"JobGroups":"none","JobGroup":[],"DownloadParams":"none","JobsId":"none"',
    b'"Jobs":{"List":{"Id":1},"RowCount":"many"},"JobGroups":{"List":7},"JobGroup":7,"DownloadParams":7,"JobsId":7',
)


class Gateway:
    """Answers the HTTP requests of OutboundBot's clients."""

    def __init__(self, options: SimulatorOptions, outbound_bot: OutboundBot, faults: Faults, stats: Stats) -> None:
        self._options = options
        self._outbound_bot = outbound_bot
        self._faults = faults
        self._stats = stats
        self._check = SignatureCheck(ACCESS_KEY_ID, ACCESS_KEY_SECRET, options.date_skew)
        self._limiter = Limiter(options.qps, 1.0)
        self._numbers = count(1)
        self._random = random.Random(options.seed)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        arrived = time.monotonic()
        self._stats.arrived(model=False, moment=arrived)
        action = request.headers.get("x-acs-action", "")
        name = action if action in self._outbound_bot.actions else "unknown"
        request_id = f"{next(self._numbers):08X}-0000-5000-8000-{int(arrived * 1000) & 0xFFFFFFFFFFFF:012X}"
        body = await request.read() if request.body_exists else b""
        if self._options.latency[1] > 0:
            await asyncio.sleep(self._random.uniform(*self._options.latency))
        fault = None
        try:
            self._check.verify(request.method, request.raw_path, request.headers, body)
            fault = self._faults.strike(action)
            if fault and (answer := await self._fail(request, fault, request_id)):
                self._stats.ended(name, fault.kind)
                return answer
            if not self._limiter.passes(time.monotonic()):
                raise ApiError(400, "Throttling.User", "Request was denied due to user flow control.")
            members = self._outbound_bot.call(action, _parameters(request.raw_path, body), fault, request.host)
        except ApiError as error:
            self._stats.ended(name, error.code)
            return self._refusal(request_id, error)
        if fault and fault.kind in _AFTER_ACTION:
            self._stats.ended(name, fault.kind)
            return reset(request)
        self._stats.ended(name, fault.kind if fault else "ok")
        head = f'{{"RequestId":"{request_id}","Success":true,"Code":"OK","Message":"Success","HttpStatusCode":200'
        return web.Response(body=b"%b%b%b}" % (head.encode(), b"," if members else b"", members), content_type=JSON)

    def _refusal(self, request_id: str, error: ApiError) -> web.Response:
        headers = {}
        if error.code.startswith("Throttling") and self._options.retry_after_ms > 0:
            headers["x-acs-retry-after"] = str(self._options.retry_after_ms)
        return web.Response(status=error.status, body=error_body(request_id, error), content_type=JSON, headers=headers)

    async def _fail(self, request: web.BaseRequest, fault: Fault, request_id: str) -> web.StreamResponse | None:
        """The answer of a fault that keeps the action from being carried out; None for the other faults."""

        def refuse(status: int, code: str, message: str) -> web.Response:
            error = ApiError(status, fault.code or code, message)
            return web.Response(status=status, body=error_body(request_id, error), content_type=JSON)

        match fault.kind:
            case "status_500":
                return refuse(500, "InternalError", "An error occurred while processing your request.")
            case "status_503":
                return refuse(
                    503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server."
                )
            case "permanent":
                return refuse(400, "InvalidParameter", "The specified parameter is invalid.")
            case "success_false":
                return refuse(200, "InternalError", "The request failed.")
            case "throttle" | "throttle_plain":
                answer = refuse(400, "Throttling.User", "Request was denied due to user flow control.")
                if fault.kind == "throttle":
                    answer.headers["x-acs-retry-after"] = str(max(1, int(fault.seconds * 1000)))
                return answer
            case "wrong_shape":
                shape = _WRONG_SHAPES[next(self._numbers) % len(_WRONG_SHAPES)]
                head = f'{{"RequestId":"{request_id}","Success":true,"Code":"OK","HttpStatusCode":200,'.encode()
                return web.Response(body=head + shape + b"}", content_type=JSON)
            case _:
                return await broken_answer(request, fault)


async def broken_answer(request: web.BaseRequest, fault: Fault) -> web.StreamResponse | None:
    """The faults that both vendors share: html, empty, reset, hang (and the model's timeout)."""
    match fault.kind:
        case "html":
            page = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
            return web.Response(text=page, content_type="text/html")
        case "empty":
            return web.Response(body=b"", content_type=JSON)
        case "reset":
            return reset(request)
        case "hang" | "timeout":
            await asyncio.sleep(fault.seconds)
            return reset(request)
    return None


def reset(request: web.BaseRequest) -> web.Response:
    """Cuts the connection with a TCP reset; the response returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def _parameters(target: str, body: bytes) -> dict[str, str]:
    """The query's parameters; those of a form body count as well."""
    _, _, query = target.partition("?")
    text = f"{query}&{body.decode('utf-8', 'replace')}" if body else query
    parameters = {}
    for part in text.split("&"):
        if part:
            name, _, value = part.partition("=")
            parameters[unquote_plus(name)] = unquote_plus(value) if "%" in value or "+" in value else value
    return parameters
