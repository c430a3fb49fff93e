"""The activities as the workflow calls them: queue, timeouts, retries and priority of each, in one place.

The work on rows is *set aside* when it failed three times: the method returns None, the rows still say what is left to
do, and a later review finds them. Only what a task cannot go on without is retried until it is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

with workflow.unsafe.imports_passed_through():
    from activities.conversations import Conversations, Fetched, FetchRequest
    from activities.dispatch import Assigned, Dispatching, DispatchRequest, Group
    from activities.follow_ups import FollowedUp, FollowUpRequest, FollowUps
    from activities.job_groups import ControlRequest, JobGroups, Watched, WatchRequest
    from activities.job_ids import JobIds, Pages, PagesRead, Settlement
    from activities.recordings import RecordingRequest, Recordings, RecordingsSaved
    from activities.tasks import HandedOver, Keep, Review, ReviewRequest, Selection, Task, Tasks, Work
    from calltasks import options
    from calltasks.names import ANALYSIS, CALL_TASKS, OUTBOUND_BOT, Turn
    from calltasks.rules.row_ranges import count
    from workflows.tally import Tally

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = workflow.ActivityCancellationType.TRY_CANCEL


async def open_task(task_id: int) -> Task:
    """The task, from the database."""
    return await workflow.execute_activity_method(
        Tasks.open_task,
        task_id,
        task_queue=CALL_TASKS,
        start_to_close_timeout=options.WORK_TIMEOUT,
        heartbeat_timeout=options.HEARTBEAT,
        retry_policy=options.UNTIL_DONE,
    )


class Steps:
    """The activities on one task. ``tally`` is told of work that was set aside."""

    def __init__(self, task: Task, tally: Tally) -> None:
        # At most 64 bytes; an organisation's share does not depend on the rest of its id.
        self._tenant = task.organization_id.encode()[:64].decode("utf-8", "ignore")
        self._tally = tally

    async def review(self, request: ReviewRequest) -> Review:
        """See how the task stands."""
        return await self._until_done(Tasks.review_task, request, CALL_TASKS)

    async def mark_dispatched(self, over: HandedOver) -> None:
        """``task_type`` 2."""
        await self._until_done(Tasks.mark_dispatched, over, CALL_TASKS)

    async def keep(self, keep: Keep) -> None:
        """What shall stay with the task."""
        await self._until_done(Tasks.keep, keep, CALL_TASKS)

    async def keep_paused(self, keep: Keep) -> None:
        """As :meth:`keep`, where nobody shall wait for a database that is away."""
        await self._set_aside(Tasks.keep, keep, Turn.CONTROLS, "", queue=CALL_TASKS)

    async def select_for_analysis(self, selection: Selection) -> list[Work]:
        """The rows that a re-analysis names."""
        return await self._until_done(Tasks.select_for_analysis, selection, CALL_TASKS)

    async def open_job_group(self, request: DispatchRequest) -> Group:
        """Find or create the job group; when it is cancelled, it is over before this is."""
        return await self._until_done(Dispatching.open_job_group, request, OUTBOUND_BOT, whole=True)

    async def assign_contacts(self, request: DispatchRequest) -> Assigned:
        """Assign the next leads; when it is cancelled, it is over before this is."""
        return await self._until_done(Dispatching.assign_contacts, request, OUTBOUND_BOT, whole=True)

    async def watch(self, request: WatchRequest) -> Watched:
        """Wait for the group's counters to move."""
        return await self._execute(
            JobGroups.watch_calls,
            request,
            OUTBOUND_BOT,
            turn=Turn.CONVERSATIONS,
            within=options.WATCH_TIMEOUT,
            retry=options.WATCHING,
            beats=False,
            summary=f"{request.called} calls known",
        )

    async def control(self, request: ControlRequest) -> str | None:
        """Suspend, resume or cancel; None if the platform did not take it."""
        return await self._set_aside(JobGroups.control_calls, request, Turn.CONTROLS, request.action)

    async def match_pages(self, pages: Pages) -> PagesRead | None:
        """Match the jobs of some pages."""
        summary = f"pages {pages.first} to {pages.last}"
        return await self._set_aside(JobIds.match_pages, pages, Turn.JOB_IDS, summary)

    async def settle_jobs(self, settlement: Settlement) -> PagesRead | None:
        """Match what is left."""
        return await self._set_aside(JobIds.settle_jobs, settlement, Turn.JOB_IDS, "all pages")

    async def fetch_conversations(self, request: FetchRequest) -> Fetched | None:
        """Outcomes and transcripts of some rows."""
        summary = _rows(request.rows)
        return await self._set_aside(Conversations.fetch_conversations, request, Turn.CONVERSATIONS, summary)

    async def save_recordings(self, request: RecordingRequest) -> RecordingsSaved | None:
        """Recordings of some rows."""
        return await self._set_aside(Recordings.save_recordings, request, Turn.RECORDINGS, _rows(request.rows))

    async def follow_up(self, request: FollowUpRequest) -> FollowedUp | None:
        """Follow-ups of some rows; or, with a ``request_id``, new judgements."""
        method = FollowUps.analyse_again if request.request_id else FollowUps.follow_up
        return await self._set_aside(method, request, Turn.ANALYSES, _rows(request.rows), queue=ANALYSIS)

    async def _until_done(
        self, method: Callable[[Any, T], Awaitable[R]], request: T, queue: str, *, whole: bool = False
    ) -> R:
        return await self._execute(
            method,
            request,
            queue,
            turn=Turn.DISPATCH if whole else Turn.CONVERSATIONS,
            within=options.WORK_TIMEOUT,
            retry=options.UNTIL_DONE,
            beats=True,
            summary="",
            cancelling=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED if whole else _AT_ONCE,
        )

    async def _set_aside(
        self,
        method: Callable[[Any, T], Awaitable[R]],
        request: T,
        turn: Turn,
        summary: str,
        *,
        queue: str = OUTBOUND_BOT,
    ) -> R | None:
        try:
            return await self._execute(
                method,
                request,
                queue,
                turn=turn,
                within=options.WORK_TIMEOUT,
                retry=options.THREE_TRIES,
                beats=True,
                summary=summary,
            )
        except ActivityError as error:
            if isinstance(error.cause, CancelledError):
                raise
            self._tally.note(reason(error), _step(method))
            workflow.logger.warning("%s set aside: %s", error.activity_type, self._tally.last_error)
            return None

    async def _execute(
        self,
        method: Callable[[Any, T], Awaitable[R]],
        request: T,
        queue: str,
        *,
        turn: Turn,
        within: timedelta,
        retry: RetryPolicy,
        beats: bool,
        summary: str,
        cancelling: workflow.ActivityCancellationType = _AT_ONCE,
    ) -> R:
        result = await workflow.execute_activity_method(
            method,
            request,
            task_queue=queue,
            start_to_close_timeout=within,
            heartbeat_timeout=options.HEARTBEAT if beats else None,
            retry_policy=retry,
            priority=Priority(priority_key=turn, fairness_key=self._tenant),
            summary=summary or None,
            cancellation_type=cancelling,
        )
        self._tally.note(getattr(result, "error", ""), _step(method))
        return result


def reason(error: ActivityError) -> str:
    """Why an activity has failed, in one line."""
    return error.cause.message if isinstance(error.cause, ApplicationError) else type(error.cause).__name__


def _step(method: Callable[..., Any]) -> str:
    """As which its errors are remembered: first judgements and new ones ask the same model."""
    return method.__name__ if method is not FollowUps.analyse_again else FollowUps.follow_up.__name__


def _rows(rows: list[list[int]]) -> str:
    if not rows:
        return "no rows"
    number = count(rows)
    return f"{number} {'row' if number == 1 else 'rows'} from {rows[0][0]}"
