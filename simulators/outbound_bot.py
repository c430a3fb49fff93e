"""The OutboundBot actions: parameters in, the vendor's JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from simulators.answers import JobView
from simulators.calls import FINAL, Contact, Job
from simulators.conversations import json_text
from simulators.faults import Fault
from simulators.options import INSTANCE_ID
from simulators.recordings import RecordingUrls
from simulators.signature import ApiError
from simulators.world import STATUSES, Group, World

Params = Mapping[str, str]
MAX_BATCH = 99
MAX_PAGE = 100
_FLIPPED = {"Succeeded": "Failed", "Failed": "Succeeded", "Cancelled": "Failed"}


class OutboundBot:
    """Carries out actions on the world. Each gives the members of the answer beside the envelope, as bytes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._view = JobView(world.clock)
        self.recordings = RecordingUrls(world)
        self.contacts_assigned = 0
        self.actions: dict[str, Callable[[Params, Fault | None, str], bytes]] = {
            "CreateJobGroup": self._create_job_group,
            "ListJobGroups": self._list_job_groups,
            "DescribeJobGroup": self._describe_job_group,
            "AssignJobs": self._assign_jobs,
            "QueryJobsWithResult": self._query_jobs_with_result,
            "ListJobs": self._list_jobs,
            "DownloadRecording": self._download_recording,
            "SuspendJobs": lambda params, fault, host: self._change(params, Job.suspend),
            "ResumeJobs": lambda params, fault, host: self._change(params, Job.resume),
            "CancelJobs": lambda params, fault, host: self._change(params, Job.cancel),
        }

    def call(self, action: str, params: Params, fault: Fault | None, host: str) -> bytes:
        """Runs `action`. Raises ApiError for what the platform refuses."""
        run = self.actions.get(action)
        if run is None:
            raise ApiError(
                404, "InvalidAction.NotFound", "Specified api is not found, please check your url and method."
            )
        if _required(params, "InstanceId") != INSTANCE_ID:
            raise ApiError(404, "NotExist.Instance", "The specified Instance does not exist.")
        return run(params, fault, host)

    def prepare(self, group: Group) -> None:
        """Writes the answers about a group's settled jobs beforehand, so that asking for them costs next to nothing."""
        now = self._world.clock.now()
        for job in group.jobs:
            self._view.full(job, now)
            self._view.with_result(job, now)

    # Groups

    def _create_job_group(self, params: Params, fault: Fault | None, host: str) -> bytes:
        name = _required(params, "JobGroupName")
        if len(_listed(params, "CallingNumber")) > MAX_BATCH:
            raise _invalid("CallingNumber")
        strategy, recall = params.get("StrategyJson", ""), params.get("RecallStrategyJson", "")
        try:
            group = self._world.create_group(name, params.get("ScriptId", ""), strategy=strategy, recall=recall)
        except (ValueError, TypeError, LookupError):
            raise _invalid("StrategyJson") from None
        if fault and fault.kind == "lost_late":
            group.visible_at = group.created + fault.seconds
        return b'"JobGroup":%b' % self._group(group)

    def _list_job_groups(self, params: Params, fault: Fault | None, host: str) -> bytes:
        number, size = _paging(params)
        text, now = params.get("SearchText", ""), self._world.clock.now()
        groups = [group for group in self._world.groups.values() if group.visible_at <= now and text in group.name]
        groups.reverse()
        first = (number - 1) * size
        shown = b",".join(self._group(group) for group in groups[first : first + size])
        end = b'"PageNumber":%d,"PageSize":%d,"TotalCount":%d' % (number, size, len(groups))
        return b'"JobGroups":{"List":[%b],%b}' % (shown, end)

    def _describe_job_group(self, params: Params, fault: Fault | None, host: str) -> bytes:
        return b'"JobGroup":%b' % self._group(self._group_of(params))

    def _group(self, group: Group) -> bytes:
        group.update(self._world.clock.now())
        count = group.progress()
        open_jobs = count["Scheduling"] + count["Executing"]
        status = (
            "Draft" if not group.listed else "Executing" if open_jobs else "Paused" if count["Paused"] else "Completed"
        )
        progress = {
            "TotalJobs": len(group.listed),
            "TotalCompleted": count["Succeeded"] + count["Failed"],
            "TotalNotAnswered": count["Failed"],
            "Scheduling": count["Scheduling"],
            "Executing": count["Executing"],
            "Paused": count["Paused"],
            "Failed": count["Failed"],
            "Cancelled": count["Cancelled"],
            "Status": status,
            "StartTime": self._world.clock.shown_ms(group.created),
            "Duration": 0,
        }
        shown: dict[str, Any] = {
            "JobGroupId": group.id,
            "JobGroupName": group.name,
            "JobGroupDescription": "",
            "ScriptId": group.script_id,
            "ScenarioId": "",
            "Status": status,
            "CreationTime": self._world.clock.shown_ms(group.created),
            "Priority": "Daily",
            "MinConcurrency": 0,
            "CallingNumbers": [],
            "Progress": progress,
            **group.hours.shown(),
        }
        return json.dumps(shown).encode()

    # Jobs

    def _assign_jobs(self, params: Params, fault: Fault | None, host: str) -> bytes:
        group = self._group_of(params)
        texts = _listed(params, "JobsJson")
        if not 1 <= len(texts) <= MAX_BATCH or len(_listed(params, "CallingNumber")) > MAX_BATCH:
            raise _invalid("JobsJson")
        contacts = [_contact(text) for text in texts]
        if fault and fault.kind == "partial":
            contacts = contacts[: max(1, len(contacts) * 2 // 3)]
        late = fault.seconds if fault and fault.kind == "lost_late" else 0.0
        jobs = self._world.assign(group, contacts, listed_after=late)
        self.contacts_assigned += len(jobs)
        return b'"JobGroupId":"%b","JobsId":[%b]' % (
            group.id.encode(),
            ",".join(f'"{job.id}"' for job in jobs).encode(),
        )

    def _query_jobs_with_result(self, params: Params, fault: Fault | None, host: str) -> bytes:
        number, size = _paging(params)
        moment = self._moment(fault)
        jobs, total = self._page(params, number, size, fault)
        shown = b",".join(
            self._view.with_result(job, moment, self._flipped(job, fault)) for job in jobs if moment >= job.visible_at
        )
        end = b'"PageNumber":%d,"PageSize":%d,"PageCount":%d,"RowCount":%d' % (number, size, -(-total // size), total)
        return b'"Jobs":{"List":[%b],%b},"Labels":[],"VariableNames":[]' % (shown, end)

    def _list_jobs(self, params: Params, fault: Fault | None, host: str) -> bytes:
        ids = _listed(params, "JobId")
        if not 1 <= len(ids) <= MAX_BATCH:
            raise _invalid("JobId")
        found = [job for job in map(self._world.find_job, ids) if job]
        if not any(job_id in self._world.jobs for job_id in ids):
            raise ApiError(404, "NotExist.Job", "The specified Job does not exist.")
        now, moment = self._world.clock.now(), self._moment(fault)
        entries = []
        for job in self._present(self._thinned(found, fault), now):
            if moment < job.visible_at:
                continue
            status = self._flipped(job, fault)
            job.shown_final = job.shown_final or job.status_at(moment) in FINAL
            entries.append(self._view.full(job, moment, status))
        if fault and fault.kind == "shuffle":
            entries = [*entries[1:], *entries[:1], *entries[-1:]]
        return b'"Jobs":[%b]' % b",".join(entries)

    def _page(self, params: Params, number: int, size: int, fault: Fault | None) -> tuple[list[Job], int]:
        group, now, status = self._group_of(params), self._world.clock.now(), params.get("JobStatusFilter", "")
        if status and status not in STATUSES:
            raise _invalid("JobStatusFilter")
        if fault and fault.kind == "shuffle":
            number, shift = max(1, number - 1), size // 3 or 1
            jobs, total = group.page(status, 1, (number + 1) * size)
            first = (number - 1) * size + shift
            jobs = jobs[first : first + size]
        else:
            jobs, total = group.page(status, number, size)
        jobs = self._thinned(jobs, fault)
        group.missing = [job for job in group.missing if job.missing_until > now]
        if fault and fault.kind == "vanish":
            group.missing.extend(job for job in jobs[::7] if job.missing_until <= now)
            for job in jobs[::7]:
                job.missing_until = now + fault.seconds
        return self._present(jobs, now), total - len(group.missing)

    def _moment(self, fault: Fault | None) -> float:
        now = self._world.clock.now()
        return max(0.0, now - fault.seconds) if fault and fault.kind == "stale" else now

    @staticmethod
    def _flipped(job: Job, fault: Fault | None) -> str:
        """Another final status than the true one, for jobs whose true one was shown before."""
        if not fault or fault.kind != "flip" or not job.shown_final:
            return ""
        job.flips += 1
        return _FLIPPED[job.outcome]

    @staticmethod
    def _thinned(jobs: list[Job], fault: Fault | None) -> list[Job]:
        return [job for index, job in enumerate(jobs) if index % 5] if fault and fault.kind == "missing" else jobs

    @staticmethod
    def _present(jobs: list[Job], now: float) -> list[Job]:
        return [job for job in jobs if job.missing_until <= now]

    # The rest

    def _download_recording(self, params: Params, fault: Fault | None, host: str) -> bytes:
        return self.recordings.answer(_required(params, "TaskId"), host)

    def _change(self, params: Params, step: Callable[[Job, float], None]) -> bytes:
        everything = _required(params, "All").lower()
        if everything not in ("true", "false"):
            raise _invalid("All")
        ids, references = _listed(params, "JobId"), _listed(params, "JobReferenceId")
        if max(len(ids), len(references)) > MAX_BATCH or not (ids or everything == "true"):
            raise _invalid("JobId")
        group = self._group_of(params) if everything == "true" or params.get("JobGroupId") else None
        jobs = [self._world.find_job(job_id) for job_id in ids] if ids else group.jobs if group else []
        # All others are filters: each leaves fewer.
        for job in jobs:
            if job is None or (group and job.group_id != group.id):
                raise ApiError(404, "NotExist.Job", "The specified Job does not exist.")
        for job in jobs:
            if job and (not references or job.contact.reference in references):
                self._world.change(self._world.groups[job.group_id], [job], step)
        return b""

    def _group_of(self, params: Params) -> Group:
        group = self._world.find_group(_required(params, "JobGroupId"))
        if group is None:
            raise ApiError(404, "NotExist.JobGroup", "The specified JobGroup does not exist.")
        return group


def error_body(request_id: str, error: ApiError) -> bytes:
    """The JSON of a refusal."""
    return (
        f'{{"RequestId":"{request_id}","Success":false,"Code":"{error.code}","HttpStatusCode":{error.status},"Message":'.encode()
        + json_text(error.message)
        + b"}"
    )


def _invalid(name: str) -> ApiError:
    return ApiError(400, "InvalidParameter", f"The parameter {name} is invalid.")


def _required(params: Params, name: str) -> str:
    if not params.get(name):
        raise _invalid(name)
    return params[name]


def _whole(params: Params, name: str) -> int | None:
    text = params.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise _invalid(name) from None


def _paging(params: Params) -> tuple[int, int]:
    number, size = _whole(params, "PageNumber"), _whole(params, "PageSize")
    if number is None or number < 1:
        raise _invalid("PageNumber")
    if size is None or not 1 <= size <= MAX_PAGE:
        raise _invalid("PageSize")
    return number, size


def _listed(params: Params, name: str) -> list[str]:
    values: list[str] = []
    while (value := params.get(f"{name}.{len(values) + 1}")) is not None:
        values.append(value)
    return values


def _contact(text: str) -> Contact:
    try:
        contact = json.loads(text)["contacts"][0]
        return Contact(
            phone=str(contact["phoneNumber"]),
            reference=str(contact.get("referenceId") or ""),
            name=str(contact.get("name") or ""),
            honorific=str(contact.get("honorific") or ""),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _invalid("JobsJson") from None
