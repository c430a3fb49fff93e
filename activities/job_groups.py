"""The job group as a whole: watch it, suspend, resume or cancel its calls. Task queue ``outbound-bot``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.liveness import heartbeating, not_yet
from calltasks.errors import PermanentError, ServiceError
from calltasks.names import Turn
from calltasks.platform.errors import SERVICE

if TYPE_CHECKING:
    from calltasks.platform.outbound_bot import OutboundBot

GROWTH = 1.5
"""By which the pause between two looks grows while nothing changes."""
FULL_LOOK = 4
"""After this many of the longest pauses the calls are looked at even if the group's counters never move."""

CLOSED_LOOK = 6
"""While nobody is dialled, so many of the longest pauses lie between two looks: the platform may know other hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A job group's counters: jobs in all, and jobs that are over."""

    total: int
    over: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """What to wait for: a change of a group's counters since ``seen``.

    Attributes:
        called: jobs that we know of; counters that know fewer are not believed.
        first, shortest, longest: seconds before the first look, and between two looks.
        opens: Unix time before which nobody is dialled; 0: calls are made now, as far as is known.
    """

    task_id: int
    organization_id: str
    job_group_id: str
    seen: Counters | None
    called: int
    first: float
    shortest: float
    longest: float
    opens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The group's counters now (None: unknown), and how many looks it took."""

    counters: Counters | None
    polls: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRequest:
    """``action``: pause, resume or cancel all calls of the group."""

    task_id: int
    organization_id: str
    job_group_id: str
    action: str


class JobGroups:
    """The activities on a job group as a whole."""

    def __init__(self, platform: OutboundBot) -> None:
        self._platform = platform

    @activity.defn
    async def watch_calls(self, request: WatchRequest) -> Watched:
        """Return once the group's counters moved.

        An attempt is one look, one cheap call for the whole task. It fails on purpose when nothing changed, and
        Temporal makes the next attempt after the pause: hours of waiting cost no event and hold no worker.
        """
        info = activity.info()
        looks = info.attempt - 1
        if looks == 0 and request.first > 0:
            raise not_yet("first look", request.first)
        session = self._platform.session(request.organization_id, Turn.CONVERSATIONS)
        try:
            progress = await session.progress(request.job_group_id)
        except ServiceError as error:
            return Watched(counters=None, polls=looks, error=str(error))
        counters = Counters(total=progress.total_jobs, over=progress.over)
        # Both by the server's clock: this worker's may be wrong.
        waited = (info.current_attempt_scheduled_time - info.scheduled_time).total_seconds()
        closed = request.opens - info.current_attempt_scheduled_time.timestamp()
        full = waited > FULL_LOOK * request.longest and closed <= 0
        if counters != request.seen or counters.total < request.called or full:
            return Watched(counters=counters, polls=max(looks, 1))
        pause = min(request.shortest * GROWTH ** min(looks, 50), request.longest)
        if closed > 0:
            pause = max(pause, min(closed, CLOSED_LOOK * request.longest))
        said = f"{counters.over} of {counters.total} calls are over, as before"
        raise not_yet(said + (f"; dialling begins in {closed:.0f} s" if closed > 0 else ""), pause)

    @activity.defn
    async def control_calls(self, request: ControlRequest) -> str:
        """Suspend, resume or cancel all calls of a group; returns the action.

        Raises:
            ApplicationError: ``PlatformRefused``, not to be retried.
        """
        try:
            async with heartbeating():
                session = self._platform.session(request.organization_id, Turn.CONTROLS)
                await session.control(request.action, request.job_group_id)
        except PermanentError as error:
            if error.service != SERVICE:
                raise
            raise ApplicationError(str(error), type="PlatformRefused", non_retryable=True) from None
        return request.action
