"""What :class:`calltasks.CallTasks` does for people who look at campaigns and correct judgements (rule 13)."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from weakref import WeakValueDictionary

from temporalio.client import Client
from temporalio.service import RPCError

from calltasks.calling_hours import calling_hours
from calltasks.database.connection import Database
from calltasks.database.tables import campaigns, corrections
from calltasks.database.tables.analyses import CallHistory, history
from calltasks.database.tables.campaigns import Campaign
from calltasks.database.tables.corrections import Word
from calltasks.errors import UnknownTaskError
from calltasks.names import STALLED_SINCE, task_of, workflow_id
from calltasks.progress import ENDED_BADLY
from calltasks.wiring import Clients

FOLLOW = "dcc_leads_follow"
ANSWER_SECONDS = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run in Temporal's list. ``status``: in lower case; ``stalled_since``: if looks find nothing new; wall clock."""

    status: str
    stalled_since: datetime | None

    @property
    def open(self) -> bool:
        """Whether it is under way."""
        return self.status == "running"

    @property
    def broken(self) -> bool:
        """Whether it did not come to its end."""
        return self.status in ENDED_BADLY


class Campaigns:
    """Rows are those of the caller's organisation: the caller has seen to that."""

    database: Database
    clients: Clients
    _client: Client | None

    @cached_property
    def _counting(self) -> MutableMapping[int, asyncio.Lock]:
        """By task, for as long as somebody counts it or waits for that."""
        return WeakValueDictionary()

    async def campaigns(self, organization_id: str, *, before: int | None = None, limit: int = 20) -> list[Campaign]:
        """The organisation's call tasks in numbers, the newest first, from before an id."""
        found = await self.database.run(campaigns.recent, organization_id, before, limit)
        now = await self.database.now()
        return [self._with_hours(campaign, now) for campaign in found]

    async def campaign(self, task_id: int) -> Campaign:
        """One call task in numbers.

        Raises:
            UnknownTaskError: there is none.
        """
        found = await self.database.run(campaigns.one, task_id)
        if found is None:
            raise UnknownTaskError(task_id)
        return self._with_hours(found, await self.database.now())

    def _with_hours(self, campaign: Campaign, now: datetime) -> Campaign:
        begins = calling_hours(campaign.task, campaign.kept, None, self.clients.strategy, now).begins
        return replace(campaign, begins=begins and self.database.wall_clock(begins))

    async def recount(self, task_id: int, *, older_than: timedelta = timedelta()) -> None:
        """Count a task's rows anew if what is kept of them is older: for what people and other programs changed.

        Of all who ask for that here at once, one counts; the others wait, and find it done.
        """
        asked = (await self.database.now()).replace(tzinfo=None)
        async with self._counting.setdefault(task_id, asyncio.Lock()):
            began = (await self.database.now()).replace(tzinfo=None)
            await self.database.run(campaigns.recount, task_id, began, asked - older_than)

    async def runs(self, task_ids: Sequence[int]) -> dict[int, Run]:
        """The latest run of each of these tasks, as far as Temporal knows one; none where it does not answer."""
        found: dict[int, Run] = {}
        if not task_ids or self._client is None:
            return found
        ids = ", ".join(f'"{workflow_id(task_id)}"' for task_id in task_ids)
        try:
            async for one in self._client.list_workflows(f"WorkflowId IN ({ids})", rpc_timeout=ANSWER_SECONDS):
                task_id = task_of(one.id)
                if task_id is not None and one.status is not None:
                    since = one.typed_search_attributes.get(STALLED_SINCE)
                    run = Run(status=one.status.name.lower(), stalled_since=since and self.database.wall_clock(since))
                    # The latest one is told first.
                    found.setdefault(task_id, run)
        except RPCError:
            pass
        return found

    async def analyses(self, call_job_id: str) -> CallHistory | None:
        """Every judgement of a call and how its follow-up stands; None if there is no such call."""
        return await self.database.run(history, call_job_id)

    async def correct(
        self, list_id: int, word: Word, organization_id: str, *, by: str, seen: str | None = None
    ) -> None:
        """Write what a person says of a row's call into the CRM, as its columns hold it, and into our ledgers.

        Args:
            list_id: the row.
            word: times are wall clock.
            organization_id: whose row it is.
            by: who says so.
            seen: the :func:`~calltasks.database.tables.corrections.seal` of what she has seen; None: whatever it was.

        Raises:
            NoFollowUpError: there is no follow-up, or a person has deleted it.
            ChangedMeanwhileError: it is not what she has seen; nothing is written.
        """
        database = self.database
        await database.prepare()
        said, now = word.next_follow_time, await database.now()
        moment = said and said.replace(tzinfo=database.zone)
        word = replace(
            word,
            leads_remark=database.fit(FOLLOW, "leads_remark", word.leads_remark),
            next_follow_time=database.moment(FOLLOW, "next_follow_time", moment),
        )
        await database.transaction(
            corrections.correct,
            list_id,
            word,
            organization_id=organization_id,
            seen=seen,
            by=by,
            now=database.wall_clock(now),
            now_utc=now.replace(tzinfo=None),
        )

    async def confirm(self, list_id: int, organization_id: str, *, by: str, seen: str | None = None) -> None:
        """Write down that a person finds the judgement of a row's call right; as :meth:`correct`."""
        now = (await self.database.now()).replace(tzinfo=None)
        await self.database.transaction(
            corrections.confirm, list_id, organization_id=organization_id, seen=seen, by=by, now_utc=now
        )
