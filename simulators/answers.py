"""How the platform's jobs look in its answers."""

from __future__ import annotations

from simulators.calls import PLANNED_BEFORE_MS, Contact, Job
from simulators.clock import Clock
from simulators.conversations import json_text

STATUS_NAMES = {
    "Scheduling": "调度中",
    "Executing": "执行中",
    "Succeeded": "已完成-已触达",
    "Paused": "已暂停",
    "Failed": "已完成-未触达",
    "Cancelled": "已取消",
}


class JobView:
    """Writes jobs as the JSON that ListJobs and QueryJobsWithResult answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def full(self, job: Job, moment: float, status: str = "") -> bytes:
        """An entry of ListJobs as of the simulated second `moment`; `status` overrides the job's own."""
        settled = not status and job.settled_at(moment)
        if settled and job.entry is not None:
            return job.entry
        begun = job.begun_at(moment)
        tasks = b",".join(self._task(job, index, moment) for index in range(begun))
        entry = b'%b,"Tasks":[%b]}' % (self._brief(job, moment, status)[:-1], tasks)
        if settled:
            job.entry = entry
        return entry

    def _brief(self, job: Job, moment: float, status: str = "") -> bytes:
        """The job without its attempts."""
        contact = job.contact
        shown = status or job.status_at(moment)
        reason = f'"FailureReason":"{job.failure_reason}",' if shown == "Failed" else ""
        contacts = b",".join(self._contact(job, one) for one in (contact, *contact.others))
        return (
            f'{{"JobId":"{job.id}","JobGroupId":"{job.group_id}","Status":"{shown}",{reason}"Priority":1,'
            f'"SystemPriority":1,"StrategyId":"","CallingNumbers":["{job.calling_number}"],"Extras":[],"Summary":[],'.encode()
            + b'"ReferenceId":%b,"Contacts":[%b]}' % (json_text(contact.reference), contacts)
        )

    def _contact(self, job: Job, contact: Contact) -> bytes:
        return (
            b'{"ContactId":"%b","ContactName":%b,"Honorific":%b,"JobId":"%b",'
            b'"PhoneNumber":%b,"ReferenceId":%b,"Role":"","State":"Available"}'
            % (
                job.id.encode(),
                json_text(contact.name),
                json_text(contact.honorific),
                job.id.encode(),
                json_text(contact.phone),
                json_text(contact.reference),
            )
        )

    def with_result(self, job: Job, moment: float, status: str = "") -> bytes:
        """An entry of QueryJobsWithResult: the latest attempt's outcome, neither its id nor what was said."""
        settled = not status and job.settled_at(moment)
        if settled and job.row is not None:
            return job.row
        row = self._row(job, moment, status or job.status_at(moment))
        if settled:
            job.row = row
        return row

    def _row(self, job: Job, moment: float, shown: str) -> bytes:
        contact = job.contact
        reason = f'"JobFailureReason":"{job.failure_reason}",' if shown == "Failed" else ""
        begun = job.begun_at(moment)
        latest = ""
        if begun:
            attempt = job.attempts[begun - 1]
            over = attempt.end <= moment
            latest = (
                f'"Status":"{attempt.status if over else "Executing"}",'
                f'"HasAnswered":{str(over and attempt.connected).lower()},'
                f'"CallTime":{self._clock.shown_ms(attempt.start)},'
                f'"CallDuration":{int(attempt.end - attempt.start) if over and attempt.connected else 0},'
                f'"HangUpDirection":"{"Client" if "Client" in attempt.status else "Robot"}",'
            )
        return (
            f'{{"Id":"{job.id}","Status":"{shown}","StatusName":"{STATUS_NAMES[shown]}",{reason}"LatestTask":{{{latest}'.encode()
            + b'"Extras":[],"TagHits":[],"Contact":{"Id":"%b","Name":%b,"Honorific":%b,"PhoneNumber":%b,'
            b'"ReferenceId":%b,"State":"Available"}}}'
            % (
                job.id.encode(),
                json_text(contact.name),
                json_text(contact.honorific),
                json_text(contact.phone),
                json_text(contact.reference),
            )
        )

    def _task(self, job: Job, index: int, moment: float) -> bytes:
        attempt = job.attempts[index]
        over = attempt.end <= moment
        start_ms = self._clock.shown_ms(attempt.start)
        conversation = b"[]"
        if over and attempt.connected and job.conversation:
            ready = moment >= job.transcript_at
            conversation = job.conversation.rendered(start_ms) if ready else b"null"
        contact = job.contact
        return (
            f'{{"TaskId":"{job.task_id(index)}","CallId":"{start_ms % 1000000000}^{job.id[:8]}","JobId":"{job.id}",'
            f'"Status":"{attempt.status if over else "Executing"}","CallingNumber":"{job.calling_number}",'
            f'"ActualTime":{start_ms},"PlanedTime":{start_ms - PLANNED_BEFORE_MS},'
            f'"Duration":{int(attempt.end - attempt.start) if over and attempt.connected else 0},"Brief":"",'.encode()
            + b'"CalledNumber":%b,"Contact":{"ContactName":%b,"PhoneNumber":%b,"ReferenceId":%b,"JobId":"%b"},'
            b'"Conversation":%b}'
            % (
                json_text(contact.phone),
                json_text(contact.name),
                json_text(contact.phone),
                json_text(contact.reference),
                job.id.encode(),
                conversation,
            )
        )
