"""Alibaba Cloud OutboundBot through its SDK, without its retries.

Bodies are taken from the SDK as plain data and read by the models of :mod:`calltasks.platform.session`: the SDK's own
model objects cost twice the CPU and swallow a body of the wrong shape, which here is an error (rule 14.4).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from alibabacloud_outboundbot20191226.client import Client
from alibabacloud_tea_openapi import exceptions, utils_models
from darabonba.runtime import RuntimeOptions

from calltasks.errors import DeclinedError, PassingError, ServiceError
from calltasks.limiter import RateLimiter
from calltasks.names import OUTBOUND_BOT
from calltasks.platform.errors import SERVICE, refusal
from calltasks.platform.send_deadline import TooLateError, has_left, leaving_before
from calltasks.platform.session import Envelope, PlatformSession, read
from calltasks.platform.transport import Transport
from calltasks.settings import PlatformSettings

VERSION = "2019-12-26"
AT_ONCE = 24
"""Calls that one worker has under way."""
READING = ("Query", "List", "Describe", "Download")
"""Actions that change nothing, by how they begin."""


class OutboundBot:
    """The platform of one instance, shared by a whole process."""

    def __init__(self, settings: PlatformSettings, limiter: RateLimiter) -> None:
        scheme, host = _endpoint(settings)
        self._transport = Transport(f"{scheme}://{host}", AT_ONCE)
        token = settings.alibaba_cloud_security_token
        self._client = Client(
            utils_models.Config(
                access_key_id=settings.alibaba_cloud_access_key_id,
                access_key_secret=settings.alibaba_cloud_access_key_secret.get_secret_value(),
                security_token=token.get_secret_value() if token else None,
                endpoint=host,
                protocol=scheme,
                region_id=settings.outbound_bot_region,
            )
        )
        self._runtime = RuntimeOptions(autoretry=False)
        self._instance_id = settings.outbound_bot_instance_id
        self.script_id = settings.outbound_bot_script_id
        self.strategy = settings.outbound_bot_strategy
        self.limiter = limiter
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=OUTBOUND_BOT)

    def session(self, tenant: str, priority: int) -> PlatformSession:
        """The platform on behalf of one organisation, at one priority of the rate limit (1 first)."""
        return PlatformSession(self, tenant, priority)

    async def call(self, action: str, query: dict[str, Any], *, send_before: float | None = None) -> dict[str, Any]:
        """One request, without retry and without waiting for the rate limit."""
        if not action.startswith(READING):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._send, action, query, send_before)
        try:
            with self._transport.used():
                answer = await self._client.call_api_async(_params(action), self._request(query), self._runtime)
        except Exception as error:
            raise translate(error, action) from None
        return _checked(action, answer.get("body"))

    async def close(self) -> None:
        """Wait for the calls under way."""
        await asyncio.to_thread(self._threads.shutdown, wait=True)
        await self._transport.close()

    def _send(self, action: str, query: dict[str, Any], send_before: float | None) -> dict[str, Any]:
        try:
            # A worker that was frozen must not send what another one has taken over meanwhile.
            with leaving_before(send_before), self._transport.used():
                answer = self._client.call_api(_params(action), self._request(query), self._runtime)
        except Exception as error:
            if isinstance(getattr(error, "inner_exception", None) or error, TooLateError):
                raise TooLateError from None
            raise translate(error, action, sent=has_left()) from None
        return _checked(action, answer.get("body"))

    def _request(self, query: dict[str, Any]) -> utils_models.OpenApiRequest:
        return utils_models.OpenApiRequest(query=_flatten({"InstanceId": self._instance_id, **query}))


@cache
def _params(action: str) -> utils_models.Params:
    """What the SDK wants to know of an action."""
    return utils_models.Params(
        action=action,
        version=VERSION,
        protocol="HTTPS",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )


def _endpoint(settings: PlatformSettings) -> tuple[str, str]:
    endpoint = settings.outbound_bot_endpoint or f"outboundbot.{settings.outbound_bot_region}.aliyuncs.com"
    scheme, found, host = endpoint.partition("://")
    # The SDK signs the host as it is written and sends it in lower case.
    return (scheme, host.rstrip("/").lower()) if found else ("https", endpoint.rstrip("/").lower())


def _flatten(query: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in query.items():
        if isinstance(value, list):
            flat.update({f"{name}.{index}": str(item) for index, item in enumerate(value, 1)})
        else:
            flat[name] = str(value)
    return flat


def _checked(action: str, body: Any) -> dict[str, Any]:
    """The body of an answer that says it succeeded: HTTP 200 alone says nothing."""
    if not isinstance(body, dict):
        raise PassingError(SERVICE, action, "UnreadableAnswer")
    envelope = read(action, Envelope, body)
    if envelope.success is True or (envelope.success is None and envelope.code in ("", "OK")):
        return body
    failure = refusal(action, envelope.code or "NoSuccess", None, envelope.request_id)
    if type(failure) is PassingError:
        failure = DeclinedError(SERVICE, action, envelope.code or "NoSuccess", request_id=envelope.request_id)
    raise failure


def translate(error: Exception, action: str, *, sent: bool = True) -> ServiceError:
    """The typed error for whatever the SDK raised; ``sent``: something of the request has left."""
    inner: Any = getattr(error, "inner_exception", None) or error
    if isinstance(inner, exceptions.AlibabaCloudException):
        wish = getattr(inner, "retry_after", None)
        seconds = None if wish is None else float(wish) / 1000
        return refusal(action, str(inner.code), inner.status_code, str(inner.request_id), retry_after=seconds)
    return PassingError(SERVICE, action, type(inner).__name__, sent=sent)
