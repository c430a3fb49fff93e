"""Who is asking: an access token is for one organisation, to edit what it has or only to read it (rule 19.3)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from calltasks.api.answers import failure
from calltasks.settings import Grant

HEADER = "access-token"
OPEN_PATHS = frozenset({"/healthz", "/openapi.json"})
CONSOLE = "/console"
"""Below it browsers are, which have a session instead of the header."""
NUMBERS = "/opt-outs"
"""Below it whole telephone numbers are told."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Tokens:
    """Grants by the SHA-256 digests of their tokens."""

    def __init__(self, grants: Mapping[bytes, Grant]) -> None:
        self._grants = dict(grants)

    def __iter__(self) -> Iterator[tuple[bytes, Grant]]:
        return iter(self._grants.items())

    def grant_of(self, token: bytes) -> Grant | None:
        """What a token is good for, or None. It is compared with every digest in constant time: how long that takes
        tells nothing about any of them."""
        digest = hashlib.sha256(token).digest()
        found = None
        for known, grant in self._grants.items():
            if hmac.compare_digest(known, digest):
                found = grant
        return found


class Access:
    """ASGI middleware that lets nobody in without a token, except to ``OPEN_PATHS``, before a body is read; and a token
    that may only read to nothing that changes anything."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if (
            scope["type"] == "http"
            and path not in OPEN_PATHS
            and path != CONSOLE
            and not path.startswith(f"{CONSOLE}/")
        ):
            # Headers are decoded as Latin-1, whatever the bytes stand for.
            token = Headers(scope=scope).get(HEADER, "").encode("latin-1")
            grant = self._tokens.grant_of(token)
            if grant is None:
                answer = failure(401, f"the header {HEADER} must hold a valid token")
                answer.headers["www-authenticate"] = f'ApiKey realm="call tasks", header="{HEADER}"'
                await answer(scope, receive, send)
                return
            if grant.role == "read" and (scope["method"] not in READING or path.startswith(NUMBERS)):
                await failure(403, "this token may only read, and no numbers")(scope, receive, send)
                return
            scope.setdefault("state", {})["organization_id"] = grant.organization_id
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
