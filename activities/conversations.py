"""Outcomes and transcripts of calls (rule 4). Task queue ``outbound-bot``."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from temporalio import activity

from activities.liveness import heartbeating
from calltasks.database.connection import Database
from calltasks.database.refusals import Refused
from calltasks.database.tables import retries as retry_table
from calltasks.database.tables import rows as table
from calltasks.database.tables.needs import CONVERSATION, final_status
from calltasks.database.tables.retries import Retry, next_try
from calltasks.database.tables.rows import CallRow, Outcome
from calltasks.names import FINAL, OUTBOUND_BOT, Turn
from calltasks.observing import telemetry
from calltasks.outcomes import Answers, ask, changed, expects_transcript, outcome_of, refusal, save_outcomes
from calltasks.platform.session import PlatformSession
from calltasks.rules.row_ranges import Ranges, pack
from calltasks.steps import Done, Step

if TYPE_CHECKING:
    from calltasks.platform.outbound_bot import OutboundBot

TURN_ROWS = 50
"""Rows that are worked through before others get their turn of the event loop: a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """Rows to ask the platform about. ``grace`` and ``lag_retry``: seconds that a transcript may come late, and after
    which a late one is asked for again (growing)."""

    task_id: int
    organization_id: str
    rows: Ranges
    grace: float
    lag_retry: float


@dataclass(slots=True, kw_only=True)
class Fetched(Done):
    """What the platform said.

    Attributes:
        ready: rows with a final outcome that wait for nothing more of the platform's, to be followed up.
        under_way: rows without an outcome, by the status that the platform gave.
        lagging: rows whose transcript is not there yet.
        not_returned: jobs that the platform left out of its answer, or gave in a form that cannot be read.
        failed_calls: requests that failed; their rows are asked for again later.
    """

    ready: Ranges
    lagging: int
    not_returned: int
    saved: int
    failed_calls: int

    @property
    def unanswered(self) -> bool:
        return bool(self.failed_calls or self.not_returned)


class Conversations:
    """The activity that fetches outcomes and transcripts."""

    def __init__(self, database: Database, platform: OutboundBot) -> None:
        self._database = database
        self._platform = platform

    @activity.defn
    async def fetch_conversations(self, request: FetchRequest) -> Fetched:
        """Ask for the outcome of these rows, as far as they have none, and save what changed."""
        session = self._platform.session(request.organization_id, Turn.CONVERSATIONS)
        async with heartbeating():
            now = (await self._database.now()).replace(tzinfo=None)
            rows = await self._database.run(
                table.without_outcome, request.task_id, request.rows, grace=request.grace, now=now
            )
            answers = await ask(session, rows)
            result = await self._save(request, answers, session)
        activity.logger.info(
            "task %d: asked for %d calls, %d saved, %d transcripts late, %d not returned, %d requests failed "
            "(last error: %s)",
            *(request.task_id, len(rows), result.saved, result.lagging, result.not_returned, result.failed_calls),
            result.error or None,
        )
        return result

    async def _save(self, request: FetchRequest, answers: Answers, session: PlatformSession) -> Fetched:
        now = await self._database.now()
        utc = now.replace(tzinfo=None)
        outcomes: list[Outcome] = []
        ready: list[int] = []
        # The grace runs for what the platform no longer returns as it does for what it returns without a transcript.
        late = [_late(row, utc, request) for row in answers.not_returned if final_status(row.call_status)]
        under_way: Counter[str] = Counter()
        for index, (row, job) in enumerate(answers.jobs):
            if index % TURN_ROWS == 0:
                await asyncio.sleep(0)
            outcome = outcome_of(row, job, self._database, now)
            status = final_status(outcome.call_status or row.call_status)
            if not status:
                under_way[job.status or "Unknown"] += 1
            elif expects_transcript(row, job, outcome):
                late.append(_late(row, utc, request))
                outcome = replace(outcome, late=late[-1])
            else:
                ready.append(row.id)
            if changed(row, outcome):
                outcomes.append(outcome)
        saved, refused = await save_outcomes(self._database, request.task_id, outcomes)
        asked = {row.id: row for row, _ in answers.jobs}
        await self._database.run(retry_table.save, request.task_id, [*late, *_set_aside(request, asked, refused, utc)])
        aside = {one.item.id for one in refused}
        settled = [row.id for row in asked.values() if row.refusals and row.id not in aside]
        await self._database.run(retry_table.settle, settled, "outcome")
        _count(asked, [outcome for outcome in outcomes if outcome.id not in aside])
        given_up = [retry.list_id for retry in late if retry.retry_at >= retry.since + timedelta(seconds=request.grace)]
        return Fetched(
            ready=pack({*ready, *given_up} - aside),
            under_way=dict(under_way),
            lagging=len(late) - len(given_up),
            not_returned=len(answers.not_returned),
            saved=saved,
            failed_calls=answers.failed_calls,
            api_calls=session.calls,
            error=answers.error or refusal("save_outcomes", refused),
        )


def _set_aside(
    request: FetchRequest, rows: dict[int, CallRow], refused: Sequence[Refused[Outcome]], now: datetime
) -> list[Retry]:
    return [
        retry_table.refused(
            list_id=one.item.id,
            step="outcome",
            code=one.code,
            tries=rows[one.item.id].refusals,
            now=now,
            delay=request.lag_retry,
        )
        for one in refused
    ]


def _count(rows: dict[int, CallRow], written: Sequence[Outcome]) -> None:
    """Metrics: calls that came to their end."""
    ended = Counter(one.call_status for one in written if one.call_status not in ("", rows[one.id].call_status))
    for status in FINAL:
        telemetry.metrics.wrote("conversations", status, ended[status])


def _late(row: CallRow, now: datetime, request: FetchRequest) -> Retry:
    since = row.since or now
    delay = timedelta(seconds=min(request.lag_retry * 2 ** min(row.tries, 6), 60))
    retry_at = next_try(since=since, now=now, delay=delay, grace=timedelta(seconds=request.grace))
    return Retry(list_id=row.id, step="conversation", tries=row.tries + 1, since=since, retry_at=retry_at)


CONVERSATIONS = Step(
    activity=Conversations.fetch_conversations,
    queue=OUTBOUND_BOT,
    priority=Turn.CONVERSATIONS,
    need=CONVERSATION,
    looks=True,
    request=lambda head, options: FetchRequest(**head, grace=options.conversation_grace, lag_retry=options.poll_min),
)
