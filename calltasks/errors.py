"""What can go wrong, as one tree. An error carries what a door needs: exit code, HTTP status, code of the answer.

::

    CallTasksError                    exit code 1, HTTP 500
    ├── SettingsError                 exit code 2: the environment is not as it must be
    │   ├── SchemaError               the database is not
    │   └── DecryptionError           (calltasks.temporal.encryption) a key is not
    ├── WrongUseError                 exit code 2, HTTP 400: arguments that do not go together
    │   ├── ForeignOrganizationError  HTTP 403
    │   ├── RefusedUrlError           HTTP 403
    │   └── ConversationsError        (calltasks.evaluation.conversations)
    ├── UnknownTaskError              HTTP 404
    ├── UnknownSubscriptionError      HTTP 404
    ├── NotRunningError               HTTP 409
    ├── NoJobIdsError                 HTTP 409, code 4009
    │   └── NotStartedError
    ├── NoFollowUpError               HTTP 409
    ├── ChangedMeanwhileError         HTTP 409
    ├── UnknownLeadsError             HTTP 404
    │   └── NoLeadIdError             exit code 2
    ├── UnknownOptOutError            HTTP 404
    ├── NoWorkerError                 HTTP 503
    ├── RunFailedError                the run that was waited for
    ├── DoubtError                    (calltasks.database.tables.dispatches) who was called cannot be told
    └── ServiceError                  HTTP 503; the platform 502, code 5003; exit code 2 where a setting is the reason
        ├── PassingError              may succeed later: network, 5xx, an answer that cannot be read
        │   ├── ThrottledError        asks us to slow down; ``retry_after`` seconds, where it says so
        │   ├── DeclinedError         a whole answer, which says that it did not succeed, and not why for good
        │   ├── TemporalError         Temporal does not do what it was asked to
        │   ├── ExpiredError          (calltasks.recordings.downloads) a link that is too old
        │   └── UnreadableAnswerError an answer of the model that was paid for and is of no use
        └── PermanentError            no retry can mend it: wrong credentials, wrong parameters, a refusal
            ├── AccessRefusedError    (calltasks.platform.errors, as all to NoSuchJobError) exit code 2
            ├── ValueRefusedError
            ├── NotFoundError
            │   ├── NoSuchGroupError
            │   └── NoSuchJobError
            ├── AskOtherwiseError     (calltasks.model.analysis) caught there: another model or form of answer is asked
            ├── LedgerError           (calltasks.database.tables.follow_ups) it did not do what it was asked to
            └── AccountError          no call of this account can succeed before a person has done something

Texts of a ServiceError (but Temporal's) hold service, operation, code and request id, never the other side's message,
which may quote a phone number or a transcript.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_SAFE = re.compile(r"[^A-Za-z0-9._:-]")
LONGEST_WISH = 300.0
"""Seconds; a service that asks for a longer silence is asked again after this: its wish stops every worker, and may be
a slip of units."""
UNEXPECTED = "an unexpected error; the log names it by the request id"


class CallTasksError(Exception):
    """What a door shows in one line: ``str()`` is for a person at a terminal.

    Attributes:
        says: that line, with what it is about.
        exit_code: of a program that ends by it: 1 failed, 2 wrong use or settings.
        http_status: of the answer.
        http_code: of the answer's envelope, where it says more than the status.
        http_message: what the answer says instead of ``str()``; of 500 ``str()`` says too much.
    """

    says = "{}"
    exit_code = 1
    http_status = 500
    http_code: int | None = None
    http_message: str | None = None

    def __init__(self, about: object = "") -> None:
        super().__init__(self.says.format(about))

    @property
    def line(self) -> str:
        """The error with what to do about it, where that is known."""
        return str(self)


@contextmanager
def ending(program: str) -> Iterator[None]:
    """Ends the program by an error of ours: one line on stderr, and its exit code."""
    try:
        yield
    except CallTasksError as error:
        print(f"{program}: {error.line}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


class SettingsError(CallTasksError):
    """A setting is missing or wrong. ``str()`` is one line for the user that names the variable, never its value."""

    exit_code = 2


class SchemaError(SettingsError):
    """The database is not as the program needs it; ``str()`` is one line that says what to do."""

    says = "database: {}"


class WrongUseError(CallTasksError, ValueError):
    """Arguments that do not go together."""

    exit_code = 2
    http_status = 400


class ForeignOrganizationError(WrongUseError):
    """A body names another organisation than the token's."""

    says = "organization_id is not that of the access token"
    http_status = 403


class RefusedUrlError(WrongUseError):
    """Events may not be sent there."""

    says = "url: {}"
    http_status = 403


class UnknownTaskError(CallTasksError):
    """There is no such call task (or it belongs to another organisation)."""

    http_status = 404
    says = "call task {} does not exist"


class UnknownSubscriptionError(CallTasksError):
    """The organisation has no such subscription to events."""

    http_status = 404
    says = "event subscription {} does not exist"


class NotRunningError(CallTasksError):
    """Nothing is known of a run of the task."""

    http_status = 409
    http_message = "no run of this call task is known; start it with /start-call-task"
    says = "call task {0} is not running; start it with: start-call {0}"


class NoJobIdsError(CallTasksError):
    """None of the task's calls has a job id yet."""

    http_status, http_code = 409, 4009
    http_message = "no call of this task has a job id yet"
    says = "call task {} has no job ids yet"


class NotStartedError(NoJobIdsError):
    """The task's calls were never started."""

    says = "the calls of task {0} were never started; start them with: start-call {0}"


class NoFollowUpError(CallTasksError):
    """A call has no follow-up that could be corrected, or a person has deleted it."""

    http_status = 409

    def __init__(self, list_id: int) -> None:
        super().__init__(f"row {list_id} has no follow-up to correct: there is none yet, or a person deleted it")


class ChangedMeanwhileError(CallTasksError):
    """What a person says of a call was said of how it stood before: somebody has changed that meanwhile."""

    http_status = 409
    says = "row {} was changed meanwhile; look at it again: nothing was written"


class UnknownLeadsError(CallTasksError):
    """Leads that were named do not exist in the organisation. ``leads`` are the first of their ids."""

    http_status = 404

    def __init__(self, leads: Sequence[int | str]) -> None:
        self.leads = list(leads)
        named = ", ".join(str(lead) for lead in leads[:20])
        super().__init__(f"unknown leads of this organisation: {named}" if leads else "the organisation has no leads")


class NoLeadIdError(UnknownLeadsError):
    """What was named cannot be the id of a lead: in this CRM they are numbers."""

    exit_code = 2

    def __init__(self, leads: Sequence[str]) -> None:
        super().__init__(leads)
        self.args = ("the ids of leads must be numbers, for example 1,2,3: in this CRM dcc_leads.leads_id is one",)


class UnknownOptOutError(CallTasksError):
    """The number does not stand among those that the organisation does not call."""

    http_status = 404
    says = "this number is not opted out in this organisation"


class NoWorkerError(CallTasksError):
    """The run is there, but no worker answers."""

    says = "no worker answers on task queue call-tasks; is `python worker.py` running?"
    http_status = 503
    http_message = "no worker answers; try again later"


class RunFailedError(CallTasksError):
    """The run did not come to its end."""

    says = "the run failed: {}; what to do: docs/operations.md, Runbook"


_HINTS = {
    ("MySQL", "1044"): "the user may not use this database; check DATABASE_URL and the user's rights",
    ("MySQL", "1045"): "wrong user or password in DATABASE_URL",
    ("MySQL", "1049"): "the database named in DATABASE_URL does not exist",
    ("MySQL", "1146"): "a table is missing; create what is missing with: starter.py init-db",
    ("MySQL", "2003"): "no server answers at the host and port of DATABASE_URL, or not with the TLS that it asks for",
    ("MySQL", "2026"): "the server has no TLS, and DATABASE_URL asks for it",
}
_SETTINGS = {("MySQL", "1044"), ("MySQL", "1045"), ("MySQL", "1049")}
_NO_ROOM = {("MySQL", "1366"), ("MySQL", "1406")}


class ServiceError(CallTasksError):
    """A call to an outside service failed.

    Attributes:
        service: ``OutboundBot``, ``DashScope``, ``MySQL``, ``RecordingArchive`` or ``Temporal``.
        operation: what was asked, such as ``ListJobs``.
        code: the service's own code, cut to a safe alphabet and 80 characters.
        request_id: the service's id of the call, or ``""``.
    """

    http_status = 503

    def __init__(self, service: str, operation: str, code: str, *, request_id: str = "") -> None:
        self.service = service
        self.operation = operation
        self.code = _SAFE.sub("_", code)[:80]
        self.request_id = _SAFE.sub("_", request_id)[:80]
        suffix = f" (request {self.request_id})" if self.request_id else ""
        super().__init__(f"{service} {operation}: {self.code}{suffix}")
        who = "the database" if service == "MySQL" else service
        self.http_message = f"{who} does not answer as it should; try again later"
        if service == "OutboundBot":
            self.http_status, self.http_code = 502, 5003
            self.http_message = f"the platform failed: {self.code}"
        elif (service, self.code) in _NO_ROOM:
            self.http_status = 400
            self.http_message = "a text is too long or holds characters that the database has no room for"
        elif (service, self.code) in _SETTINGS:
            self.exit_code = 2

    @property
    def line(self) -> str:
        hint = _HINTS.get((self.service, self.code))
        return f"{self}: {hint}" if hint else str(self)


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


class TemporalError(PassingError):
    """Temporal does not do what it was asked to; ``str()`` holds what it says."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__("Temporal", "call", status)
        self.args = (f"Temporal: {message}",)


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
