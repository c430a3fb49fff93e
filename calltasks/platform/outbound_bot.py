"""Alibaba Cloud OutboundBot through its SDK: synchronous client, in threads, no SDK retries.

Bodies are taken from the SDK as plain data and read by the models of :mod:`calltasks.platform.session`: the SDK's own
model objects cost twice the CPU and swallow a body of the wrong shape, which here is an error (rule 14.4).
"""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from alibabacloud_outboundbot20191226.client import Client
from alibabacloud_tea_openapi import exceptions, utils_models
from darabonba.core import DaraCore
from darabonba.runtime import RuntimeOptions
from urllib3.exceptions import NewConnectionError

from calltasks.errors import DeclinedError, PassingError, ServiceError, ThrottledError
from calltasks.limiter import RateLimiter
from calltasks.names import OUTBOUND_BOT
from calltasks.platform.errors import SERVICE, refusal
from calltasks.platform.send_deadline import TooLateError, leaving_before, watched
from calltasks.platform.session import Envelope, PlatformSession, read
from calltasks.proxies import proxy_for
from calltasks.settings import PlatformSettings

VERSION = "2019-12-26"
CONNECT_MS = 5_000
READ_MS = 10_000
THREADS = 24
"""Calls that one worker has under way at once."""
_adapter = DaraCore.get_adapter


def _watched_adapter(*arguments: Any, **options: Any) -> Any:
    return watched(_adapter(*arguments, **options))


# The SDK offers no other way to the connections that it makes.
DaraCore.get_adapter = staticmethod(_watched_adapter)


class OutboundBot:
    """The platform of one instance, shared by a whole process."""

    def __init__(self, settings: PlatformSettings, limiter: RateLimiter) -> None:
        scheme, host = _endpoint(settings)
        proxy_for(f"{scheme}://{host}/")
        token = settings.alibaba_cloud_security_token
        self._client = Client(
            utils_models.Config(
                access_key_id=settings.alibaba_cloud_access_key_id,
                access_key_secret=settings.alibaba_cloud_access_key_secret.get_secret_value(),
                security_token=token.get_secret_value() if token else None,
                endpoint=host,
                protocol=scheme,
                region_id=settings.outbound_bot_region,
                connect_timeout=CONNECT_MS,
                read_timeout=READ_MS,
                max_idle_conns=THREADS,
            )
        )
        self._runtime = RuntimeOptions(autoretry=False, max_idle_conns=THREADS)
        self._instance_id = settings.outbound_bot_instance_id
        self.script_id = settings.outbound_bot_script_id
        self.strategy = settings.outbound_bot_strategy
        self.limiter = limiter
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=OUTBOUND_BOT)

    def session(self, tenant: str, priority: int) -> PlatformSession:
        """The platform on behalf of one organisation, at one priority of the rate limit (1 first)."""
        return PlatformSession(self, tenant, priority)

    async def call(self, action: str, query: dict[str, Any], *, send_before: float | None = None) -> dict[str, Any]:
        """One request, without retry and without waiting for the rate limit."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._send, action, query, send_before)

    def close(self) -> None:
        """Wait for the calls under way."""
        self._threads.shutdown(wait=True)

    def _send(self, action: str, query: dict[str, Any], send_before: float | None) -> dict[str, Any]:
        params = utils_models.Params(
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
        request = utils_models.OpenApiRequest(query=_flatten({"InstanceId": self._instance_id, **query}))
        try:
            # A worker that was frozen must not send what another one has taken over meanwhile.
            with leaving_before(send_before):
                answer = self._client.call_api(params, request, self._runtime)
        except Exception as error:
            if isinstance(getattr(error, "inner_exception", None) or error, TooLateError):
                raise TooLateError from None
            raise translate(error, action) from None
        return _checked(action, answer.get("body"))


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


def translate(error: Exception, action: str) -> ServiceError:
    """The typed error for whatever the SDK raised."""
    inner: Any = getattr(error, "inner_exception", None) or error
    if isinstance(inner, exceptions.ThrottlingException) and inner.retry_after is not None:
        return ThrottledError(
            SERVICE,
            action,
            str(inner.code),
            request_id=str(inner.request_id),
            retry_after=max(0.0, float(inner.retry_after) / 1000),
        )
    if isinstance(inner, exceptions.AlibabaCloudException):
        return refusal(action, str(inner.code), inner.status_code, str(inner.request_id))
    # The SDK keeps the text of a transport's error only; the error itself is still its context.
    cause = inner.__context__
    return PassingError(SERVICE, action, type(cause or inner).__name__, sent=not _never_left(cause))


def _never_left(error: BaseException | None) -> bool:
    """Whether a request certainly did not reach the platform: nobody answered, no proxy did, or not with its own
    certificate."""
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ProxyError):
        return True
    reason = getattr(error.args[0] if error and error.args else None, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        return isinstance(reason.args[0] if reason and reason.args else None, ssl.SSLCertVerificationError)
    return isinstance(error, requests.exceptions.ConnectionError) and isinstance(reason, NewConnectionError)
