"""What OutboundBot's refusals mean, in our words: one table of beginnings of its codes."""

from __future__ import annotations

from calltasks.errors import PassingError, PermanentError, ServiceError, ThrottledError

SERVICE = "OutboundBot"


class AccessRefusedError(PermanentError):
    """The platform refuses us, whatever we ask: the access key in the settings is wrong, or lacks the right."""

    exit_code = 2


class NotFoundError(PermanentError):
    """Something that the request names is not there: an instance, a script, a group."""


class NoSuchGroupError(NotFoundError):
    """The job group is not there."""


class NoSuchJobError(NotFoundError):
    """One of the jobs that were asked for is not there; the platform tells of none of them then."""


class ValueRefusedError(PermanentError):
    """One of the request's values is none that the platform takes; it does nothing of the request then."""


REFUSALS = {
    "NotExist.JobGroup": NoSuchGroupError,
    "NotExist.Job": NoSuchJobError,
    "NotExist": NotFoundError,
    "InvalidParam": ValueRefusedError,
    "InvalidAccessKeyId": AccessRefusedError,
    "InvalidSecurityToken": AccessRefusedError,
    "Forbidden": AccessRefusedError,
    "SignatureDoesNot": AccessRefusedError,
}
"""By how a code begins; the first that fits counts."""
WRONG_CLOCK = ("InvalidTimeStamp", "IllegalTimestamp")
"""This worker's clock is wrong: another worker, or another try, gets through."""
CAME_TWICE = "SignatureNonceUsed"
"""Something on the way has sent the request a second time: the first one may have been carried out."""


def refusal(
    action: str, code: str, status: int | None, request_id: str, *, retry_after: float | None = None
) -> ServiceError:
    """The typed error of an answer that says no; ``status`` is that of HTTP, None for 200. ``retry_after`` (seconds),
    the wish to be asked later, may come with any failure: it does not say that nothing was done."""
    if code.startswith("Throttling") or status == 429:
        return ThrottledError(SERVICE, action, code, request_id=request_id, retry_after=retry_after)
    if code.startswith((*WRONG_CLOCK, CAME_TWICE)):
        return PassingError(SERVICE, action, code, request_id=request_id, sent=code.startswith(CAME_TWICE))
    other = PermanentError if status is not None and 400 <= status < 500 and status != 408 else PassingError
    kind = next((kind for beginning, kind in REFUSALS.items() if code.startswith(beginning)), other)
    return kind(SERVICE, action, code, request_id=request_id)
