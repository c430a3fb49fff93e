"""The floor: the same clients and the same SQL in one plain asyncio program, without Temporal.

What it leaves out is what durability needs: no task queue, no history, no heartbeats, no row read back from the
database between two steps while it is still in memory. Killed half way it would have to start over, and two of them
would get in each other's way. It is tuned like the product: the steps overlap, each within a window.

``python -m benchmarks.floor`` says ``floor ready`` on standard error, runs each task whose id comes in on standard
input, and answers with one JSON line: ``{"seconds": …, "cpu_seconds": …}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from pymysql.cursors import Cursor

from activities import job_ids
from activities.follow_ups import FOLLOW, LEDGER, without_conversation
from calltasks import outcomes
from calltasks.database.tables import follow_ups, rows, tasks
from calltasks.database.tables.analyses import FollowUp
from calltasks.database.tables.rows import CallRow, Outcome
from calltasks.names import Turn
from calltasks.platform.outbound_bot import THREADS
from calltasks.platform.session import IDS_A_CALL
from calltasks.rules.judgement import PROMPT_VERSION, SYSTEM, fingerprint, question, read_answer, render
from calltasks.rules.row_ranges import pack
from calltasks.settings import AnalysisSettings, load
from calltasks.wiring import Clients

PIECES_AT_ONCE = 2
"""Pieces of ten pages in work at the same time; more only queue up before the one processor that this program has."""
FETCHES_AT_ONCE = 4
PORTION = 400
"""Rows a transaction of follow-ups, and of recordings."""


class Floor:
    """Runs finished calls of an adopted task (SPEC 3 to 8), one task at a time."""

    def __init__(self) -> None:
        self._clients = Clients()
        self._database, self._platform, self._model = (
            self._clients.database,
            self._clients.platform,
            self._clients.model,
        )
        self._places = load(AnalysisSettings).analysis_concurrency
        self._to_fetch: asyncio.Queue[list[CallRow]] = asyncio.Queue()
        self._to_judge: asyncio.Queue[tuple[CallRow, Outcome]] = asyncio.Queue()
        self._to_record: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self._judged: list[FollowUp] = []
        self._urls: list[tuple[int, str]] = []

    async def prepare(self) -> None:
        """Open what every task needs."""
        await self._database.prepare()

    async def close(self) -> None:
        """Close all clients."""
        await self._clients.aclose()

    async def run(self, task_id: int) -> None:
        """Take one task to type 4."""
        task = await self._database.run(tasks.load, task_id)
        assert task is not None
        self._task = task
        self._listing = self._platform.session(task.organization_id, Turn.JOB_IDS)
        self._asking = self._platform.session(task.organization_id, Turn.CONVERSATIONS)
        self._recording = self._platform.session(task.organization_id, Turn.RECORDINGS)
        async with asyncio.TaskGroup() as group:
            steps = [
                *(group.create_task(self._fetch()) for _ in range(FETCHES_AT_ONCE)),
                *(group.create_task(self._judge()) for _ in range(self._places)),
                *(group.create_task(self._record()) for _ in range(THREADS)),
            ]
            await self._list_pages()
            for queue in (self._to_fetch, self._to_judge, self._to_record):
                await queue.join()
            for step in steps:
                step.cancel()
        await self._write(len(self._judged))
        await self._save_urls(len(self._urls))
        await self._database.run(self._finish)

    async def _list_pages(self) -> None:
        jobs = await self._list_piece(1)
        starts = iter(range(11, -(-jobs // 100) + 1, 10))

        async def work() -> None:
            for start in starts:
                await self._list_piece(start)

        await asyncio.gather(*(work() for _ in range(PIECES_AT_ONCE)))

    async def _list_piece(self, first: int) -> int:
        reading = await job_ids.read_pages(self._listing, self._task.job_group_id, first, first + 9)
        assert reading.row_count is not None and not reading.failed
        jobs = await job_ids.identify(self._listing, reading)
        matched, _ = await self._database.run(job_ids.match_by_reference, self._task.task_id, jobs)
        runs = pack(row_id for row_id, _ in matched)
        now = (await self._database.now()).replace(tzinfo=None)
        found = await self._database.run(rows.without_outcome, self._task.task_id, runs, grace=0, now=now)
        for start in range(0, len(found), IDS_A_CALL):
            self._to_fetch.put_nowait(found[start : start + IDS_A_CALL])
        return reading.row_count

    async def _fetch(self) -> None:
        while True:
            batch = await self._to_fetch.get()
            jobs = await self._asking.jobs([row.call_job_id for row in batch])
            now = await self._database.now()
            found = [
                (row, outcomes.outcome_of(row, job, self._database, now))
                for row, job in outcomes.match_answers(batch, jobs)
            ]
            await self._database.transaction(rows.save_outcomes, self._task.task_id, [outcome for _, outcome in found])
            for row, outcome in found:
                self._to_judge.put_nowait((row, outcome))
                if outcome.call_status == "Succeeded":
                    self._to_record.put_nowait((row.id, outcome.call_task_id))
            self._to_fetch.task_done()

    async def _record(self) -> None:
        while True:
            row_id, call_task_id = await self._to_record.get()
            url = await self._recording.recording_url(call_task_id)
            self._urls.append((row_id, url))
            await self._save_urls(PORTION)
            self._to_record.task_done()

    async def _save_urls(self, portion: int) -> None:
        if len(self._urls) >= max(portion, 1):
            urls, self._urls = self._urls, []
            await self._database.run(rows.save_recordings, urls)

    async def _judge(self) -> None:
        while True:
            row, outcome = await self._to_judge.get()
            follow_up = await self._follow_up(row, outcome)
            self._judged.append(follow_up)
            await self._write(PORTION)
            self._to_judge.task_done()

    async def _follow_up(self, row: CallRow, outcome: Outcome) -> FollowUp:
        called_at = outcome.updated_time or outcome.planed_time or self._database.wall_clock(await self._database.now())
        call = follow_ups.FinishedCall(
            id=row.id,
            call_job_id=row.call_job_id,
            call_status=outcome.call_status,
            conversation=outcome.conversation,
            called_at=called_at,
            tries=0,
            since=None,
        )
        transcript = render(call.conversation)
        if not transcript:
            return without_conversation(call)
        moment = called_at.replace(tzinfo=self._database.zone)
        answer = await self._model.complete(
            system=SYSTEM, user=question(transcript, moment), tenant=self._task.organization_id
        )
        judgement = read_answer(answer.text, called_at=moment, transcript=transcript)
        next_time = judgement.next_follow_time
        return FollowUp(
            list_id=row.id,
            call_job_id=row.call_job_id,
            outcome="analysed",
            is_interested=judgement.is_interested,
            leads_remark=self._database.fit(FOLLOW, "leads_remark", judgement.leads_remark),
            next_follow_time=self._database.moment(FOLLOW, "next_follow_time", next_time),
            evidence=self._database.fit(LEDGER, "evidence", judgement.evidence),
            model=self._model.name,
            prompt_version=PROMPT_VERSION,
            transcript_hash=fingerprint(call.conversation),
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
        )

    async def _write(self, portion: int) -> None:
        if not self._judged or len(self._judged) < portion:
            return
        judged, self._judged = self._judged, []
        now = await self._database.now()
        await self._database.transaction(
            follow_ups.create,
            self._task.task_id,
            judged,
            now=self._database.wall_clock(now),
            now_utc=now.replace(tzinfo=None),
        )

    def _finish(self, cursor: Cursor) -> None:
        groups = tasks.standing(cursor, self._task.task_id)
        assert all(group.followed for group in groups if group.called)
        tasks.raise_type(cursor, self._task.task_id, 3)
        tasks.raise_type(cursor, self._task.task_id, 4)


async def main() -> None:
    """Serve the ids on standard input."""
    floor = Floor()
    await floor.prepare()
    loop = asyncio.get_running_loop()
    print("floor ready", file=sys.stderr, flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        began, cpu = time.monotonic(), time.process_time()
        await floor.run(int(line))
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(spent), flush=True)
    await floor.close()


if __name__ == "__main__":
    asyncio.run(main())
