"""Alibaba Cloud OutboundBot (version 2019-12-26): its answers, typed, and its calls on behalf of one piece of work.

The SDK itself is loaded by :mod:`calltasks.platform.outbound_bot` only, because importing it takes seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from calltasks.database.tables.needs import final_status
from calltasks.errors import DeclinedError, PassingError, PermanentError
from calltasks.names import CANCEL, CANCELLED, FAILED, PAUSE, RESUME, SUCCEEDED
from calltasks.observing import telemetry
from calltasks.platform.errors import SERVICE, AccessRefusedError
from calltasks.platform.send_deadline import TooLateError
from calltasks.platform.strategy import Strategy

if TYPE_CHECKING:
    from calltasks.platform.outbound_bot import OutboundBot

PAGE_SIZE = 100
IDS_A_CALL = 99
LATEST_MS = 4_102_444_800_000
"""The year 2100: a later time is none."""
CONTACTS_A_CALL = 99
THROTTLED_TRIES = 6
CONTROLS = {PAUSE: "SuspendJobs", RESUME: "ResumeJobs", CANCEL: "CancelJobs"}


def _text(value: Any) -> Any:
    if isinstance(value, str):
        # A lone surrogate is text for JSON but for no database.
        return value.encode("utf-8", "replace").decode()
    return "" if value is None else str(value) if isinstance(value, int) else value


def _list(value: Any) -> Any:
    return [] if value is None else value


def _number(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return 0.0


Text = Annotated[str, BeforeValidator(_text)]
JobId = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=64)]
"""At most as long as ``call_job_id`` holds."""
B = TypeVar("B", bound="Body")
T = TypeVar("T")


class Body(BaseModel):
    """Part of a vendor's answer: PascalCase names, unknown fields ignored, null text read as empty."""

    model_config = ConfigDict(alias_generator=to_pascal, extra="ignore", populate_by_name=True)


class Contact(Body):
    """Who is called."""

    phone_number: Text = ""
    reference_id: Text = ""


class Attempt(Body):
    """One dialled attempt of a job (the vendor's *task*). Times are milliseconds since 1970; of a duration only whether
    there is one counts."""

    task_id: Text = ""
    status: Text = ""
    calling_number: Text = ""
    actual_time: int | None = None
    planed_time: int | None = None
    contact: Contact | None = None
    duration: Annotated[float, BeforeValidator(_number)] = 0.0
    conversation: Annotated[list[Any], BeforeValidator(_list)] = []

    @property
    def connected(self) -> bool:
        """Whether somebody answered (docs/vendors.md V11: ``Succeeded`` and every name that begins with it)."""
        return self.status.startswith("Succeeded")

    @property
    def spoken(self) -> bool:
        """Whether there is something that a transcript can tell, whatever became of the job (rule 4.8)."""
        return self.connected or self.duration > 0


class Job(Body):
    """A job as ``ListJobs`` returns it."""

    job_id: JobId
    job_group_id: Text = ""
    status: Text = ""
    reference_id: Text = ""
    contacts: Annotated[list[Contact], BeforeValidator(_list)] = []
    tasks: Annotated[list[Attempt], BeforeValidator(_list)] = []

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that counts: the last; of a job that succeeded the last connected one (rule 4.5)."""
        if final_status(self.status) == SUCCEEDED:
            for attempt in reversed(self.tasks):
                if attempt.connected:
                    return attempt
        return self.tasks[-1] if self.tasks else None

    @property
    def call_status(self) -> str:
        """The job's status; lacking it the attempt's, of which only ``Executing`` is not final (rule 4.4)."""
        attempt = self.attempt
        if self.status or attempt is None:
            return final_status(self.status) or self.status
        if attempt.connected:
            return SUCCEEDED
        if attempt.status in ("", "Executing"):
            return attempt.status
        return CANCELLED if attempt.status == "Cancelled" else FAILED

    @property
    def dialling(self) -> bool:
        """Whether it is being called: then it cannot be withdrawn (docs/vendors.md V14)."""
        return self.call_status == "Executing"


class LatestTask(Body):
    """The latest attempt, as a page of a job group shows it."""

    contact: Contact | None = None


class ListedJob(Body):
    """A job as ``QueryJobsWithResult`` returns it: no task id, no transcript."""

    id: JobId
    status: Text = ""
    reference_id: Text = ""
    latest_task: LatestTask | None = None


class JobPage(Body):
    """One page of a group's jobs, and how many jobs the group has in all."""

    row_count: int = Field(ge=0, le=1_000_000)
    jobs: Annotated[list[ListedJob], BeforeValidator(_list)] = Field(default=[], alias="List")


class _Group(Body):
    job_group_id: str = Field(min_length=1)
    job_group_name: Text = ""


class _Groups(Body):
    list_: Annotated[list[_Group], BeforeValidator(_list)] = Field(default=[], alias="List")
    total_count: int = 0


class GroupProgress(Body):
    """How far a job group is, in jobs."""

    total_jobs: int = 0
    total_completed: int = 0
    failed: int = 0
    cancelled: int = 0
    scheduling: int = 0
    executing: int = 0
    paused: int = 0

    @property
    def over(self) -> int:
        """Jobs that are over."""
        # Whether "completed" holds the failed and cancelled ones too is not documented; what is left tells it anyway.
        left = self.scheduling + self.executing + self.paused
        return min(self.total_completed + self.failed + self.cancelled, self.total_jobs - left)


class _DescribedGroup(Body):
    status: Text = ""
    progress: GroupProgress


class _DownloadParams(Body):
    signature_url: Text = ""


class Envelope(Body):
    """What every answer begins with."""

    success: bool | None = None
    code: Text = ""
    request_id: Text = ""


@dataclass(slots=True)
class PlatformSession:
    """The platform for one piece of work: its tenant and priority for the rate limit, and a count of its calls.

    All methods raise :class:`calltasks.errors.ServiceError`.
    """

    platform: OutboundBot
    tenant: str
    priority: int
    calls: int = field(default=0)

    async def create_group(self, name: str, strategy: Strategy | None = None) -> str:
        """Create a job group that dials by this strategy, or as its instance does, and return its id."""
        query = {"JobGroupName": name}
        if self.platform.script_id:
            query["ScriptId"] = self.platform.script_id
        given = zip(("StrategyJson", "RecallStrategyJson"), strategy.sent() if strategy else (), strict=False)
        query |= {field: text for field, text in given if text}
        body = await self._ask("CreateJobGroup", query)
        return read("CreateJobGroup", _Group, body.get("JobGroup")).job_group_id

    async def find_groups(self, name: str) -> list[str]:
        """The ids of all groups of exactly this name."""
        found: list[str] = []
        for page in range(1, 1000):
            query = {"SearchText": name, "PageNumber": page, "PageSize": PAGE_SIZE}
            groups = read("ListJobGroups", _Groups, (await self._ask("ListJobGroups", query)).get("JobGroups"))
            found += [group.job_group_id for group in groups.list_ if group.job_group_name == name]
            if not groups.list_ or page * PAGE_SIZE >= groups.total_count:
                break
        return list(dict.fromkeys(found))

    async def assign(self, group_id: str, contacts: Sequence[str], *, send_before: float) -> int:
        """Hand over at most 99 contacts, each a JSON text.

        Args:
            group_id: the job group.
            contacts: as the vendor's ``JobsJson`` wants them.
            send_before: :func:`calltasks.clock.elapsed` after which the request must not leave any more.

        Returns:
            How many jobs the platform says it made: different ids.

        Raises:
            TooLateError: ``send_before`` has passed, or the work was stopped while this waited for its turn; nothing
                was sent. Once it has left, its answer is waited for, stopped or not.
        """
        query = {"JobGroupId": group_id, "JobsJson": list(contacts)}
        try:
            body = await self._ask("AssignJobs", query, send_before=send_before)
        except asyncio.CancelledError:
            raise TooLateError from None
        ids = body.get("JobsId")
        if not isinstance(ids, list):
            raise PassingError(SERVICE, "AssignJobs", "UnreadableAnswer")
        return len({str(job_id) for job_id in ids if job_id})

    async def page(self, group_id: str, number: int) -> JobPage:
        """Page ``number`` (from 1) of a group's jobs, 100 a page."""
        query = {"JobGroupId": group_id, "PageNumber": number, "PageSize": PAGE_SIZE}
        return read("QueryJobsWithResult", JobPage, (await self._ask("QueryJobsWithResult", query)).get("Jobs"))

    async def jobs(self, ids: Sequence[str]) -> list[Job]:
        """Up to 99 jobs by id, with their attempts.

        Those that the platform leaves out, or answers in a form that cannot be read, are missing here too: one odd
        job must not hold up the other 98.
        """
        # 99 jobs with transcripts are 10 ms of work: in a thread, beside the event loop.
        return await asyncio.to_thread(readable_jobs, await self.raw_jobs(ids))

    async def raw_jobs(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """As :meth:`jobs`, as the vendor spells them."""
        jobs = (await self._ask("ListJobs", {"JobId": list(ids)})).get("Jobs")
        if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
            raise PassingError(SERVICE, "ListJobs", "UnreadableAnswer")
        return jobs

    async def recording_url(self, task_id: str) -> str:
        """The signed URL of one attempt's recording; ``""`` if there is none (yet)."""
        try:
            params = (await self._ask("DownloadRecording", {"TaskId": task_id})).get("DownloadParams")
        except (PermanentError, DeclinedError) as error:
            if error.service != SERVICE or isinstance(error, AccessRefusedError):
                raise
            # How the platform says that there is no recording (yet) is not documented (docs/vendors.md V9).
            return ""
        return "" if params is None else read("DownloadRecording", _DownloadParams, params).signature_url

    async def progress(self, group_id: str) -> GroupProgress:
        """The group's counters: one cheap call however many jobs it has."""
        body = await self._ask("DescribeJobGroup", {"JobGroupId": group_id})
        return read("DescribeJobGroup", _DescribedGroup, body.get("JobGroup")).progress

    async def control(self, action: str, group_id: str) -> None:
        """``pause``, ``resume`` or ``cancel`` all calls of the group."""
        await self._ask(CONTROLS[action], {"JobGroupId": group_id, "All": True})

    async def cancel_jobs(self, group_id: str, ids: Sequence[str]) -> None:
        """Withdraw up to 99 jobs of a group. One that is being dialled goes on, with what attempts are left to it, and
        one that is over stays so."""
        await self._ask(CONTROLS[CANCEL], {"JobGroupId": group_id, "All": False, "JobId": list(ids)})

    async def _ask(self, action: str, query: dict[str, Any], *, send_before: float | None = None) -> dict[str, Any]:
        """One call, repeated as long as the platform asks us to slow down."""

        async def request() -> dict[str, Any]:
            self.calls += 1
            with telemetry.vendor_call(SERVICE, action):
                call = self.platform.call(action, query, send_before=send_before)
                return await (call if send_before is None else _answered(action, call))

        return await self.platform.limiter.ask(
            request, service=SERVICE, tenant=self.tenant, priority=self.priority, patience=lambda _: THROTTLED_TRIES
        )


async def _answered(action: str, call: Coroutine[Any, Any, T]) -> T:
    """The answer of a request that may have left: it is waited for, whoever is stopped meanwhile.

    A stop may come in the very turn of the loop in which the answer does: it ends no wait, and the answer counts.

    Raises:
        PassingError: the loop itself ends, and nobody hears the answer; or whatever else the call raises.
    """
    sending = asyncio.ensure_future(call)
    while not sending.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([sending])
    if sending.cancelled():
        raise PassingError(SERVICE, action, "Stopped")
    return sending.result()


def readable_jobs(answers: Sequence[dict[str, Any]]) -> list[Job]:
    """The jobs of an answer that can be read."""
    jobs = []
    for answer in answers:
        with suppress(PassingError):
            jobs.append(read("ListJobs", Job, answer))
    return jobs


def read(action: str, model: type[B], value: Any) -> B:
    """One part of an answer.

    Raises:
        PassingError: it is not of the form that it should have.
    """
    try:
        return model.model_validate(value)
    except ValidationError:
        raise PassingError(SERVICE, action, "UnreadableAnswer") from None


def contact_json(*, phone: str, name: str, reference_id: str) -> str:
    """One contact as ``AssignJobs`` wants it."""
    contact = {"phoneNumber": phone, "name": name, "referenceId": reference_id, "honorific": ""}
    return json.dumps({"extras": [], "contacts": [contact]}, ensure_ascii=False, separators=(",", ":"))


def moment(milliseconds: int | None) -> datetime | None:
    """A vendor's time, or None if it has none or one that no calendar holds."""
    if not milliseconds or not 0 < milliseconds < LATEST_MS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
