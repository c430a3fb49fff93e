"""One job of the platform: whom it calls, how the attempts go, what is said, all decided by a hash."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from simulators.conversations import Conversation, Conversations
from simulators.options import SimulatorOptions
from simulators.strategy import Hours

FINAL = frozenset({"Succeeded", "Failed", "Cancelled"})
NOT_CONNECTED = ("NoAnswer", "NoAnswer", "NoAnswer", "Busy", "PoweredOff", "NotConnected", "OutOfService", "NotExist")
CALLING_NUMBERS = ("0571000000", "0571000001", "0571000002", "0571000003")
NEVER = math.inf
PLANNED_BEFORE_MS = 2000  # a call is planned this long before it is made


class Attempt(NamedTuple):
    """One call of a job: begins and ends at these simulated seconds."""

    start: float
    end: float
    status: str

    @property
    def connected(self) -> bool:
        return self.status.startswith("Succeeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Whom to call. `course`, `turns` and `outcome` fix what is otherwise drawn; `others` are further contacts of the
    same job, as `ListJobs` alone shows them."""

    phone: str
    reference: str = ""
    name: str = ""
    honorific: str = ""
    course: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    outcome: str = ""
    others: tuple[Contact, ...] = ()


class Draws:
    """Sixteen numbers in [0, 1) that depend on the key alone."""

    __slots__ = ("_numbers",)

    def __init__(self, key: str) -> None:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=64).digest()
        self._numbers = struct.unpack("16I", digest)

    def __getitem__(self, index: int) -> float:
        return self.whole(index) / 4294967296.0

    def whole(self, index: int) -> int:
        return int(self._numbers[index])


class Job:
    """A job and its whole future; what can be seen of it at a moment is `status_at` and `begun_at`."""

    __slots__ = (
        "assigned", "attempts", "calling_number", "cancelled_at", "contact", "conversation", "entry",
        "flips", "group_id", "hours", "id", "missing_until", "next_event", "outcome", "paused_at", "recording_at",
        "recording_style", "row", "shown_final", "status", "transcript_at", "visible_at",
    )  # fmt: skip

    def __init__(self, job_id: str, group_id: str, contact: Contact, assigned: float, hours: Hours) -> None:
        self.id = job_id
        self.group_id = group_id
        self.hours = hours
        self.contact = contact
        self.assigned = assigned
        self.attempts: list[Attempt] = []
        self.outcome = "Failed"
        self.conversation: Conversation | None = None
        self.calling_number = CALLING_NUMBERS[0]
        self.visible_at = assigned
        self.transcript_at = NEVER
        self.recording_at = NEVER
        self.recording_style = 0
        self.paused_at = NEVER
        self.cancelled_at = NEVER
        self.status = ""
        self.next_event = NEVER
        self.missing_until = -1.0
        self.shown_final = False
        self.flips = 0
        self.entry: bytes | None = None
        self.row: bytes | None = None

    def begun_at(self, moment: float) -> int:
        """How many attempts have begun at `moment`; a paused job begins none."""
        until = min(moment, self.paused_at)
        return sum(attempt.start <= until for attempt in self.attempts)

    def status_at(self, moment: float) -> str:
        begun = self.begun_at(moment)
        if begun and self.attempts[begun - 1].end > moment:
            return "Executing"
        if moment >= self.cancelled_at or begun == len(self.attempts):
            return self.outcome
        return "Paused" if moment >= self.paused_at else "Scheduling"

    def next_change(self, moment: float) -> float:
        """The next simulated second after `moment` at which `status_at` may differ."""
        if moment < self.visible_at:
            return self.visible_at
        for attempt in self.attempts:
            if attempt.start > moment:
                return NEVER if moment >= self.paused_at else attempt.start
            if attempt.end > moment:
                return attempt.end
        return NEVER

    def settled_at(self, moment: float) -> bool:
        """Whether nothing of the job (but its recording) changes any more after `moment`."""
        if (self.attempts and moment < self.attempts[-1].end) or self.status_at(moment) not in FINAL:
            return False
        return self.conversation is None or self.transcript_at == NEVER or moment >= self.transcript_at

    @property
    def chosen(self) -> int | None:
        """Index of the attempt that counts: the last one, for a Succeeded job the last connected one."""
        if not self.attempts:
            return None
        if self.outcome == "Succeeded":
            return max(index for index, attempt in enumerate(self.attempts) if attempt.connected)
        return len(self.attempts) - 1

    @property
    def failure_reason(self) -> str:
        return self.attempts[-1].status if self.outcome == "Failed" and self.attempts else ""

    def task_id(self, index: int) -> str:
        """Attempt `index`'s id: the job's id with its last two digits (always 00) replaced."""
        return f"{self.id[:-2]}{index + 1:02x}"

    def suspend(self, moment: float) -> None:
        if self.status_at(moment) == "Scheduling":
            self.paused_at = moment

    def resume(self, moment: float) -> None:
        """What had not begun when the job was paused begins later by as long as it was paused."""
        if self.paused_at == NEVER:
            return
        wait = moment - self.paused_at
        before, chosen = self.attempts, self.chosen
        begun = self.begun_at(self.paused_at)
        self.attempts = before[:begun]
        self.plan((attempt.start + wait, attempt.end - attempt.start, attempt.status) for attempt in before[begun:])
        if chosen is not None and begun <= chosen < len(self.attempts):
            self.transcript_at += self.attempts[chosen].start - before[chosen].start
            self.recording_at += self.attempts[chosen].start - before[chosen].start
        self.paused_at = NEVER

    def plan(self, calls: Iterable[tuple[float, float, str]]) -> None:
        """Adds attempts, each given by when it would begin, its length and how it ends, when the group's hours let
        them; those that never may are left out."""
        for wanted, length, status in calls:
            start = self.hours.place(self.attempts, wanted)
            if start == NEVER:
                break
            self.attempts.append(Attempt(start, start + length, status))
        if self.outcome == "Succeeded" and not any(attempt.connected for attempt in self.attempts):
            self.outcome, self.conversation = "Failed", None
        if self.outcome == "Failed" and not self.attempts:
            self.outcome = "Cancelled"

    def cancel(self, moment: float) -> None:
        """Takes back what has not begun. A call under way is not touched, nor what attempts may follow it."""
        if self.status_at(moment) in FINAL or self.status_at(moment) == "Executing":
            return
        self.attempts = self.attempts[: self.begun_at(moment)]
        self.paused_at = NEVER
        self.cancelled_at = moment
        if not any(attempt.connected for attempt in self.attempts):
            self.outcome = "Cancelled"
            self.conversation = None


class CallPlan:
    """Decides how each job goes."""

    def __init__(self, options: SimulatorOptions, conversations: Conversations) -> None:
        self._options = options
        self._conversations = conversations

    def fill(self, job: Job, lines: list[float], index: int, called_at: float | None) -> None:
        """Sets the future of a new job, the `index`-th of its group.

        `lines` holds when each line of the group is free and is brought up to date. With `called_at` (a simulated
        second, also negative) the calls are over and took place before then.
        """
        options, contact = self._options, job.contact
        draws = Draws(f"{options.seed}|{contact.reference or contact.phone}")
        job.outcome = contact.outcome or _outcome(options, draws)
        statuses = _statuses(options, draws, job.outcome)
        if job.outcome == "Succeeded":
            job.conversation = self._conversations.choose(contact.course, contact.turns, draws.whole(4), draws.whole(5))
            statuses = [job.conversation.task_status if status == "Succeeded" else status for status in statuses]
        job.calling_number = CALLING_NUMBERS[draws.whole(6) % len(CALLING_NUMBERS)]
        lengths = [
            round(
                options.seconds_per_call * (0.6 + 0.8 * draws[7]) * (1.0 if status.startswith("Succeeded") else 0.4), 3
            )
            for status in statuses
        ]
        if called_at is None:
            line = index % len(lines)
            start = max(job.assigned + min(1.0, options.seconds_per_call), lines[line])
            job.plan(self._calls(job, start, lengths, statuses))
            lines[line] = job.attempts[0].end if job.attempts else start
        else:
            start = called_at - sum(lengths) - options.retry_after * max(0, len(lengths) - 1)
            for status, length in zip(statuses, lengths, strict=True):
                job.attempts.append(Attempt(start, start + length, status))
                start += length + options.retry_after
        late = draws[8] < options.late_rate
        job.visible_at = job.assigned + (options.late_lag if late else options.listing_lag)
        self._set_lags(job, draws, job.assigned if called_at is not None else None)

    def _calls(
        self, job: Job, first: float, lengths: list[float], statuses: list[str]
    ) -> Iterator[tuple[float, float, str]]:
        for status, length in zip(statuses, lengths, strict=True):
            yield job.attempts[-1].end + self._options.retry_after if job.attempts else first, length, status

    def _set_lags(self, job: Job, draws: Draws, base: float | None) -> None:
        if job.outcome != "Succeeded" or job.chosen is None:
            return
        options = self._options
        ended = job.attempts[job.chosen].end if base is None else base
        if draws[9] >= options.transcript_never:
            job.transcript_at = ended + (options.transcript_lag if draws[10] < options.transcript_lag_share else 0.0)
        if draws[11] >= options.recording_never:
            job.recording_at = ended + options.recording_lag
        job.recording_style = draws.whole(12)


def _outcome(options: SimulatorOptions, draws: Draws) -> str:
    if draws[0] < options.answer_rate:
        return "Succeeded"
    return "Cancelled" if draws[1] < options.cancelled_rate else "Failed"


def _statuses(options: SimulatorOptions, draws: Draws, outcome: str) -> list[str]:
    count = 1 if draws[2] >= options.retry_rate else 2 + draws.whole(3) % 2
    missed = [NOT_CONNECTED[draws.whole(13 + index) % len(NOT_CONNECTED)] for index in range(3)]
    if outcome == "Cancelled":
        return []
    if outcome == "Failed":
        return missed[:count]
    if count > 1 and draws[13] < options.trailing_rate:
        return [*missed[: count - 2], "Succeeded", missed[2]]
    return [*missed[: count - 1], "Succeeded"]
