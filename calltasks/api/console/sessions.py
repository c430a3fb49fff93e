"""Who is signed in. A session is a signed cookie and nothing is kept on the server: its key is the digest of the token
that signed in, so that every process knows it, and it ends when the token is taken back."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from calltasks.api.access import CONSOLE, Tokens
from calltasks.settings import Grant

COOKIE = "console"
SECONDS = 12 * 3600
"""A session ends so long after signing in: a working day."""
FORM_TOKEN = "form_token"
MOST_NAME = 40
"""Characters of a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody of an organisation. ``name``: as she gave it; ``form_token`` stands in each form of hers, and in no form
    of a stranger."""

    grant: Grant
    name: str
    form_token: str

    @property
    def may_edit(self) -> bool:
        """Whether she may change anything, and see whole numbers."""
        return self.grant.role == "edit"


def open_session(tokens: Tokens, token: str, name: str, request: Request, answer: Response) -> bool:
    """Sign in with a token, if it is one: the answer carries the cookie. ``name`` stands beside what she corrects."""
    raw = token.strip().encode("utf-8", "replace")
    if (grant := tokens.grant_of(raw)) is None:
        return False
    digest = next(digest for digest, known in tokens if known is grant)
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    answer.set_cookie(
        COOKIE,
        _serializer(digest).dumps(name.strip()[:MOST_NAME]),
        SECONDS,
        path=CONSOLE,
        httponly=True,
        samesite="lax",
        secure=secure,
    )
    return True


def session_of(tokens: Tokens, request: Request) -> Session | None:
    """Whose request it is."""
    cookie = request.cookies.get(COOKIE, "")
    for digest, grant in tokens:
        try:
            name = str(_serializer(digest).loads(cookie, max_age=SECONDS))
        except BadData:
            continue
        form_token = hmac.new(digest, cookie.encode(), "sha256").hexdigest()
        return Session(grant=grant, name=name, form_token=form_token)
    return None


async def form_of(request: Request, session: Session | None) -> dict[str, str]:
    """The fields of a form of ours that was sent to us.

    Raises:
        HTTPException: it comes from another site, or is none of this session.
    """
    origin = request.headers.get("origin")
    # A page that hides where it comes from ("null") is none of ours: ours are of no sandbox and no other site's.
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "the form comes from another site")
    fields = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
    # As bytes: of texts only those in ASCII can be compared.
    if session and not hmac.compare_digest(fields.get(FORM_TOKEN, "").encode(), session.form_token.encode()):
        raise HTTPException(403, "the form is too old; go back and open the page again")
    return fields


def _serializer(digest: bytes) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(digest, salt="console")
