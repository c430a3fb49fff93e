"""Decrypts payloads for the Temporal UI: ``python calltasks/temporal/codec_server.py`` (docs/security.md).

``POST /decode`` takes and returns payloads by Temporal's remote codec protocol. Who may: the holder of
CODEC_SERVER_TOKEN, as ``Authorization: Bearer TOKEN`` (the command line), or by the cookie that signing in at ``/``
sets for eight hours, because the UI of a server without sign-in of its own sends no such header. There is no
``/encode``: who may read may not yet write.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import signal
import sys
import time

from aiohttp import web
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads

from calltasks.errors import SettingsError, ending
from calltasks.settings import CodecServerSettings, EncryptionSettings, load
from calltasks.temporal.encryption import DecryptionError, EncryptionCodec

log = logging.getLogger("codec")

COOKIE = "codec-session"
SESSION_SECONDS = 8 * 3600
BODY_BYTES = 64_000_000
"""A page of a long history in one request."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = """<!doctype html><html lang="en"><title>Codec server</title><h1>Codec server</h1>
<p>{message}</p>
<form method="post" action="/sign-in"><label>Token <input type="password" name="token" required></label>
<button>Sign in</button></form></html>
"""


class CodecServer:
    """The HTTP application.

    Args:
        codec: decrypts.
        settings: token and origin.
    """

    def __init__(self, codec: EncryptionCodec, settings: CodecServerSettings) -> None:
        self._codec = codec
        self._token = settings.codec_server_token.get_secret_value().encode()
        self._origin = settings.codec_server_origin

    def application(self) -> web.Application:
        """Its routes."""
        application = web.Application(client_max_size=BODY_BYTES)
        application.router.add_get("/", self._show)
        application.router.add_post("/sign-in", self._sign_in)
        application.router.add_options("/decode", self._preflight)
        application.router.add_post("/decode", self._decode)
        return application

    async def _show(self, _request: web.Request) -> web.Response:
        return _page("Sign in to let the Temporal UI in this browser show what is encrypted.")

    async def _sign_in(self, request: web.Request) -> web.Response:
        given = (await request.post()).get("token")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            return _page("This is not the token.", status=403)
        response = _page("Signed in for eight hours. Reload the Temporal UI.")
        expires = int(time.time()) + SESSION_SECONDS
        response.set_cookie(
            COOKIE,
            f"{expires}.{self._signature(expires)}",
            max_age=SESSION_SECONDS,
            path="/decode",
            httponly=True,
            samesite="Strict",
            secure=self._origin.startswith("https:"),
        )
        return response

    async def _preflight(self, request: web.Request) -> web.Response:
        if request.headers.get("Origin") != self._origin:
            raise web.HTTPForbidden(text="unknown origin")
        allowed = {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "authorization, authorization-extras, content-type, x-namespace",
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=self._cross_origin() | allowed)

    async def _decode(self, request: web.Request) -> web.Response:
        if request.headers.get("Origin", self._origin) != self._origin:
            raise web.HTTPForbidden(text="unknown origin")
        headers = _HEADERS | self._cross_origin()
        if not self._may_read(request):
            raise web.HTTPUnauthorized(text="sign in to the codec server first", headers=headers)
        try:
            given = json_format.Parse(await request.text(), Payloads(), ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError, LookupError, RecursionError):
            raise web.HTTPBadRequest(text='expected {"payloads": […]}', headers=headers) from None
        decoded = Payloads(payloads=[await self._readable(payload) for payload in given.payloads])
        text = json_format.MessageToJson(decoded, indent=None)
        return web.Response(text=text, content_type="application/json", headers=headers)

    async def _readable(self, payload: Payload) -> Payload:
        try:
            return (await self._codec.decode([payload]))[0]
        except DecryptionError as error:
            # The others of the page are shown; this one stays as it is.
            log.warning("%s", error)
            return payload

    def _may_read(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)
        if request.headers.get("Origin") != self._origin:
            return False
        expires, _, signature = request.cookies.get(COOKIE, "").partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 20 and int(expires) > time.time()):
            return False
        return hmac.compare_digest(signature.encode("utf-8", "replace"), self._signature(int(expires)).encode())

    def _signature(self, expires: int) -> str:
        """A browser sends cookies to every port of a host: so not the token itself, and only for a while."""
        return hmac.new(self._token, f"{COOKIE} {expires}".encode(), hashlib.sha256).hexdigest()

    def _cross_origin(self) -> dict[str, str]:
        return {
            "Access-Control-Allow-Origin": self._origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }


def _page(message: str, status: int = 200) -> web.Response:
    text = _PAGE.format(message=message)
    return web.Response(text=text, content_type="text/html", status=status, headers=_HEADERS)


async def run() -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingsError: a setting is missing or wrong.
        OSError: the address is taken or is not ours.
    """
    keys = load(EncryptionSettings).keys
    if not keys:
        raise SettingsError("settings: PAYLOAD_ENCRYPTION_KEYS is not set, there is nothing to decrypt")
    settings = load(CodecServerSettings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(CodecServer(EncryptionCodec(keys), settings).application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.codec_server_host, settings.codec_server_port).start()
        log.info("codec server ready on http://%s:%d", *runner.addresses[0][:2])
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Exit code 0 after a signal, 1 if the address cannot be used, 2 for settings."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        with ending("codec server"):
            asyncio.run(run())
    except OSError as error:
        print(f"codec server: CODEC_SERVER_HOST, CODEC_SERVER_PORT: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
