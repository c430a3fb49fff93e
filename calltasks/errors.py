"""What can go wrong outside, told apart once, where it arises.

::

    ServiceError
    ├── PassingError         may succeed later: network, 5xx, an answer that cannot be read
    │   ├── ThrottledError   asks us to slow down; ``retry_after`` seconds, where it says so
    │   ├── DeclinedError    a whole answer, which says that it did not succeed, and not why for good
    │   └── UnreadableAnswerError  an answer of the model that was paid for and is of no use
    └── PermanentError       no retry can mend it: wrong credentials, wrong parameters, a refusal
        └── AccountError     no call of this account can succeed before a person has done something

Texts hold the service, the operation, a code and a request id, never the other side's own message: that may quote
a phone number or a transcript.
"""

from __future__ import annotations

import math
import re

_SAFE = re.compile(r"[^A-Za-z0-9._:-]")
LONGEST_WISH = 300.0
"""Seconds; a service that asks for a longer silence is asked again after this: its wish stops every worker, and may be
a slip of units."""


class ServiceError(Exception):
    """A call to an outside service failed.

    Attributes:
        service: ``OutboundBot``, ``DashScope`` or ``MySQL``.
        operation: what was asked, such as ``ListJobs``.
        code: the service's own code, cut to a safe alphabet and 80 characters.
        request_id: the service's id of the call, or ``""``.
    """

    def __init__(self, service: str, operation: str, code: str, *, request_id: str = "") -> None:
        self.service = service
        self.operation = operation
        self.code = _SAFE.sub("_", code)[:80]
        self.request_id = _SAFE.sub("_", request_id)[:80]
        suffix = f" (request {self.request_id})" if self.request_id else ""
        super().__init__(f"{service} {operation}: {self.code}{suffix}")


class PassingError(ServiceError):
    """May succeed when tried again later.

    Attributes:
        sent: whether the request may have reached the service, so that it may have been carried out.
    """

    def __init__(self, service: str, operation: str, code: str, *, request_id: str = "", sent: bool = True) -> None:
        super().__init__(service, operation, code, request_id=request_id)
        self.sent = sent


class ThrottledError(PassingError):
    """The service asks for fewer calls; ``retry_after`` is its wish in seconds (at most ``LONGEST_WISH``), or None."""

    def __init__(
        self, service: str, operation: str, code: str, *, request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(service, operation, code, request_id=request_id, sent=False)
        # Not a number is no wish.
        wish = None if retry_after is None or math.isnan(retry_after) else retry_after
        self.retry_after = None if wish is None else max(0.0, min(wish, LONGEST_WISH))


class DeclinedError(PassingError):
    """The service answered (HTTP 200) that it did not do it, for a reason that may pass."""


class UnreadableAnswerError(PassingError):
    """The model has answered, and the answer is of no use: cut off, empty, or far too long.

    Attributes:
        model: which model, as ``AnalysisModel.name`` has it.
        input_tokens, output_tokens: what the answer cost all the same.
    """

    def __init__(
        self,
        service: str,
        operation: str,
        code: str,
        *,
        request_id: str = "",
        model: str = "",
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        super().__init__(service, operation, code, request_id=request_id)
        self.model = model
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens


class PermanentError(ServiceError):
    """No retry can mend it."""


class AccountError(PermanentError):
    """Every call will be refused alike until a person pays, permits or sets something; ``str()`` says what.

    Attributes:
        kind: one word, for metrics: ``bill``, ``key`` or ``model``.
    """

    def __init__(self, service: str, operation: str, code: str, *, kind: str, hint: str, request_id: str = "") -> None:
        super().__init__(service, operation, code, request_id=request_id)
        self.kind = kind
        self.hint = hint
        self.args = (f"{self.args[0]}: {hint}",)


_HINTS = {
    ("MySQL", "1044"): "the user may not use this database; check DATABASE_URL and the user's rights",
    ("MySQL", "1045"): "wrong user or password in DATABASE_URL",
    ("MySQL", "1049"): "the database named in DATABASE_URL does not exist",
    ("MySQL", "1146"): "a table is missing; create what is missing with: starter.py init-db",
    ("MySQL", "2003"): "no server answers at the host and port of DATABASE_URL, or not with the TLS that it asks for",
    ("MySQL", "2026"): "the server has no TLS, and DATABASE_URL asks for it",
}


def explain(error: ServiceError) -> str:
    """The error as one line for a person, with what to do where that is known."""
    hint = _HINTS.get((error.service, error.code))
    return f"{error}: {hint}" if hint else str(error)


def is_setting(error: ServiceError) -> bool:
    """Whether the error says that a setting is wrong, rather than that a service is down."""
    return (error.service, error.code) in {("MySQL", "1044"), ("MySQL", "1045"), ("MySQL", "1049")}
