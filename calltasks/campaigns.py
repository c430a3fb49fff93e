"""What :class:`calltasks.CallTasks` does for people who look at campaigns and correct judgements (rule 13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from calltasks.database.connection import Database
from calltasks.database.tables import campaigns, corrections
from calltasks.database.tables.analyses import CallHistory, history
from calltasks.database.tables.campaigns import Campaign
from calltasks.database.tables.corrections import Word
from calltasks.names import STALLED_SINCE, task_of, workflow_id

FOLLOW = "dcc_leads_follow"
ANSWER_SECONDS = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as Temporal lists it. ``status``: in lower case; ``stalled_since``: if looks find nothing new."""

    status: str
    stalled_since: datetime | None

    @property
    def open(self) -> bool:
        """Whether it is under way."""
        return self.status == "running"


class Campaigns:
    """Rows are those of the caller's organisation: the caller has seen to that."""

    database: Database
    _client: Client | None

    async def campaigns(self, organization_id: str, *, before: int | None = None, limit: int = 20) -> list[Campaign]:
        """The organisation's call tasks in numbers, the newest first, from before an id."""
        return await self.database.run(campaigns.recent, organization_id, before, limit)

    async def recount(self, task_id: int, *, older_than: timedelta = timedelta()) -> None:
        """Count a task's rows anew if what is kept of them is older: for what people and other programs changed."""
        now = (await self.database.now()).replace(tzinfo=None)
        await self.database.run(campaigns.recount, task_id, now, older_than)

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
                    # The latest one is told first.
                    found.setdefault(task_id, Run(status=one.status.name.lower(), stalled_since=since))
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
