"""Who is asking: one access token an organisation."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from calltasks.api.answers import failure

HEADER = "access-token"
OPEN_PATHS = frozenset({"/healthz", "/openapi.json"})


class Tokens:
    """Organisations by the SHA-256 digests of their tokens."""

    def __init__(self, digests: Mapping[bytes, str]) -> None:
        self._digests = dict(digests)

    def organization_of(self, token: bytes) -> str | None:
        """Whose token it is, or None. It is compared with every digest in constant time: how long that takes tells
        nothing about any of them."""
        digest = hashlib.sha256(token).digest()
        found = None
        for known, organization in self._digests.items():
            if hmac.compare_digest(known, digest):
                found = organization
        return found


class Access:
    """ASGI middleware that lets nobody in without a token, except to ``OPEN_PATHS``, before a body is read."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            # Headers are decoded as Latin-1, whatever the bytes stand for.
            token = Headers(scope=scope).get(HEADER, "").encode("latin-1")
            organization = self._tokens.organization_of(token)
            if organization is None:
                answer = failure(401, f"the header {HEADER} must hold a valid token")
                answer.headers["www-authenticate"] = f'ApiKey realm="call tasks", header="{HEADER}"'
                await answer(scope, receive, send)
                return
            scope.setdefault("state", {})["organization_id"] = organization
        await self._app(scope, receive, send)


async def _organization(
    request: Request,
    _token: Annotated[
        str | None,
        Security(APIKeyHeader(name=HEADER, auto_error=False, description="The token of your organisation.")),
    ],
) -> str:
    organization: str = request.state.organization_id
    return organization


Organization = Annotated[str, Depends(_organization)]
"""The organisation whose token came with the request."""
