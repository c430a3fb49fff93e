"""How a run calls activities, and the calls beside the steps of a row's journey (those stand beside their activities).

Work on rows is *set aside* when it failed three times: the rows still say what is left to do, and a later review finds
them. Only what a task cannot go on without is retried until it is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import Priority
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

from activities.dispatch import Dispatching
from activities.job_groups import JobGroups
from activities.job_ids import JobIds
from activities.tasks import Tasks
from calltasks import options
from calltasks.names import CALL_TASKS, OUTBOUND_BOT, Turn
from calltasks.rules.row_ranges import Ranges, count
from calltasks.steps import ActivityCall
from workflows.tally import Tally

T = TypeVar("T")
R = TypeVar("R")


def _on_task(activity: Callable[[Any, T], Awaitable[R]]) -> ActivityCall[T, R]:
    return ActivityCall(activity=activity, queue=CALL_TASKS, retry=options.UNTIL_DONE)


def _handing_over(activity: Callable[[Any, T], Awaitable[R]]) -> ActivityCall[T, R]:
    """When it is cancelled, it is over before anything else is done."""
    return ActivityCall(
        activity=activity, queue=OUTBOUND_BOT, priority=Turn.DISPATCH, retry=options.UNTIL_DONE, whole=True
    )


OPEN_TASK = _on_task(Tasks.open_task)
REVIEW = _on_task(Tasks.review_task)
MARK_DISPATCHED = _on_task(Tasks.mark_dispatched)
KEEP = _on_task(Tasks.keep)
KEEP_OR_NOT = replace(KEEP, priority=Turn.CONTROLS, retry=options.THREE_TRIES)
"""Where nobody shall wait for a database that is away."""
SELECT = _on_task(Tasks.select_for_analysis)
OPEN_JOB_GROUP = _handing_over(Dispatching.open_job_group)
ASSIGN_CONTACTS = _handing_over(Dispatching.assign_contacts)
WATCH = ActivityCall(
    activity=JobGroups.watch_calls,
    queue=OUTBOUND_BOT,
    retry=options.WATCHING,
    within=options.WATCH_TIMEOUT,
    heartbeat=None,
)
CONTROL = ActivityCall(activity=JobGroups.control_calls, queue=OUTBOUND_BOT, priority=Turn.CONTROLS)
MATCH_PAGES = ActivityCall(activity=JobIds.match_pages, queue=OUTBOUND_BOT, priority=Turn.JOB_IDS)
SETTLE_JOBS = ActivityCall(activity=JobIds.settle_jobs, queue=OUTBOUND_BOT, priority=Turn.JOB_IDS)


class Steps:
    """The activities on one task of an organisation. ``tally`` is told of work that was set aside."""

    def __init__(self, organization_id: str, tally: Tally) -> None:
        # At most 64 bytes; an organisation's share does not depend on the rest of its id.
        self._tenant = organization_id.encode()[:64].decode("utf-8", "ignore")
        self._tally = tally

    async def run(self, call: ActivityCall[T, R], request: T, summary: str = "") -> R:
        """Have it done.

        Raises:
            ActivityError: it cannot be.
        """
        waiting = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
        result = await workflow.execute_activity_method(
            call.activity,
            request,
            task_queue=call.queue,
            start_to_close_timeout=call.within,
            heartbeat_timeout=call.heartbeat,
            retry_policy=call.retry,
            priority=Priority(priority_key=call.priority, fairness_key=self._tenant or None),
            summary=summary or None,
            cancellation_type=waiting if call.whole else workflow.ActivityCancellationType.TRY_CANCEL,
        )
        self._tally.note(getattr(result, "error", ""), call.errors_of or call.name)
        return result

    async def attempt(self, call: ActivityCall[T, R], request: T, summary: str = "") -> R | None:
        """Have it done; or set it aside, which is None."""
        try:
            return await self.run(call, request, summary)
        except ActivityError as error:
            if isinstance(error.cause, CancelledError):
                raise
            self._tally.note(reason(error), call.errors_of or call.name)
            workflow.logger.warning("%s set aside: %s", error.activity_type, self._tally.last_error)
            return None


def reason(error: ActivityError) -> str:
    """Why an activity has failed, in one line."""
    return error.cause.message if isinstance(error.cause, ApplicationError) else type(error.cause).__name__


def rows_in(rows: Ranges) -> str:
    """The rows, for people."""
    number = count(rows)
    return f"{number} {'row' if number == 1 else 'rows'} from {rows[0][0]}" if rows else "no rows"
