"""What people look at: campaigns, their calls, one call with what was said and judged (rules 13.1 to 13.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from calltasks.api.access import CONSOLE
from calltasks.api.console.rendering import page
from calltasks.api.console.showing import bars, bubbles, masked, masked_within
from calltasks.call_tasks import CallTasks
from calltasks.database.tables import analyses, calls, corrections, opt_outs
from calltasks.database.tables.calls import Call, CallFilter, Calls
from calltasks.database.tables.opt_outs import OptOut
from calltasks.errors import CallTasksError
from calltasks.names import FINAL, SUCCEEDED
from calltasks.recordings.hearing import hear
from calltasks.rules.phones import e164
from calltasks.rules.spreadsheets import lines

CAMPAIGNS_A_PAGE = 20
COUNT_AGE = timedelta(seconds=10)
"""A campaign that is looked at is counted anew so often."""
QUERY_SECONDS = timedelta(seconds=1)
"""So long a page waits for what a run says of itself; without a worker it says nothing."""
LONGEST_ID = 20
"""Digits."""
CSV_ROWS = 500
"""Rows that are read at once for a CSV."""
STATUSES = ("open", *FINAL)
COLUMNS = (
    *("row", "call_job_id", "leads_id", "name", "phone", "called_at", "status", "interest", "remark"),
    *("next_follow_time", "outcome", "changed_by_a_person", "opted_out"),
)


def calls_of(request: Request) -> CallTasks:
    """What the console looks through."""
    found: CallTasks = request.app.state.calls
    return found


def organization_of(request: Request) -> str:
    """Whose session it is."""
    found: str = request.state.session.grant.organization_id
    return found


async def begin(request: Request) -> Response:
    """Where everybody comes in."""
    return RedirectResponse(f"{CONSOLE}/campaigns", 303)


async def _campaigns(request: Request) -> Response:
    before = request.query_params.get("before", "")
    if before and not (before.isdecimal() and len(before) < LONGEST_ID):
        raise HTTPException(404, "there is no such page")
    tasks = calls_of(request)
    found = await tasks.campaigns(
        organization_of(request), before=int(before) if before else None, limit=CAMPAIGNS_A_PAGE + 1
    )
    shown = found[:CAMPAIGNS_A_PAGE]
    runs = await tasks.runs([one.task_id for one in shown])
    more = shown[-1].task_id if len(found) > len(shown) else None
    uncounted = [one.task_id for one in shown if one.to_be_counted]
    live = bool(uncounted) or any(run.open for run in runs.values())
    answer = page(request, "campaigns.html", campaigns=shown, runs=runs, more=more, live=live)
    answer.background = recounting(tasks, *uncounted, older_than=COUNT_AGE)
    return answer


async def _campaign(request: Request) -> Response:
    tasks, task_id = calls_of(request), int(request.path_params["task_id"])
    await tasks.task(task_id, organization_of(request))
    chosen, sort = filter_of(request.query_params)
    campaign, part, runs = await asyncio.gather(
        tasks.campaign(task_id),
        calls_page(tasks, task_id, chosen, sort, request.query_params.get("after", "")),
        tasks.runs([task_id]),
    )
    run, progress = runs.get(task_id), None
    if run is not None and run.open:
        with suppress(CallTasksError):
            progress = await tasks.progress(task_id, patience=QUERY_SECONDS)
    shown = page(
        request,
        "campaign.html",
        campaign=campaign,
        page=part,
        searched=calls.SEARCHED,
        counted_at=campaign.counted_at and local(tasks, campaign.counted_at),
        bars=bars([replace(hour, at=local(tasks, hour.at)) for hour in campaign.hours]),
        run=run,
        progress=progress,
        chosen=chosen,
        sort=sort,
        sorts=calls.sorts(chosen),
        statuses=STATUSES,
        query=query_of(chosen, sort),
        live=campaign.to_be_counted or (run is not None and run.open),
    )
    # Nobody waits for it: the next look has it.
    shown.background = recounting(tasks, task_id, older_than=COUNT_AGE)
    return shown


async def _call(request: Request) -> Response:
    tasks, organization = calls_of(request), organization_of(request)
    call = await own_call(request)
    chosen, sort = filter_of(request.query_params)
    talk, history, people, refusal, before, behind = await asyncio.gather(
        tasks.database.run(calls.conversation, call.id),
        tasks.database.run(analyses.judged, call.id, call.call_job_id),
        tasks.database.run(corrections.of_call, call.id, call.call_job_id),
        refusal_of(tasks, organization, call),
        tasks.database.run(calls.neighbour, call, chosen, sort, before=True),
        tasks.database.run(calls.neighbour, call, chosen, sort, before=False),
    )
    zone = tasks.database.zone
    judged = [(one, local(tasks, one.created_at)) for one in history]
    deciding = next((one for one, _ in reversed(judged) if one.outcome == "analysed"), None)
    sentences = [] if deciding is None else [deciding.do_not_call, deciding.evidence]
    turns = [(one, datetime.fromtimestamp(one.at / 1000, zone) if one.at else None) for one in bubbles(talk, sentences)]
    return page(
        request,
        "call.html",
        call=call,
        turns=turns,
        judged=judged[::-1],
        said=[(one, local(tasks, one.created_at)) for one in people][::-1],
        refused=refusal is not None,
        seen=corrections.seal(call.follow_up, refusal),
        before=before,
        behind=behind,
        has_audio=call.recorded or call.call_status == SUCCEEDED,
        query=query_of(chosen, sort),
        live=False,
    )


async def refusal_of(tasks: CallTasks, organization_id: str, call: Call) -> OptOut | None:
    """The entry of the organisation's opt-outs that has the customer's number, if one does."""
    number = e164(call.phone)
    return await tasks.database.run(opt_outs.standing, organization_id, number) if number else None


async def own_call(request: Request) -> Call:
    """The call of the row in the path, if it is of the session's organisation.

    Raises:
        HTTPException: there is none.
    """
    found = await calls_of(request).database.run(
        calls.one, int(request.path_params["list_id"]), organization_of(request)
    )
    if found is None:
        raise HTTPException(404, "there is no such call")
    return found


async def _recording(request: Request) -> Response:
    call = await own_call(request)
    audio = await hear(calls_of(request).clients, call.id, request.headers.get("range", ""))
    if audio is None:
        raise HTTPException(404, "there is no recording of this call")
    return StreamingResponse(audio.chunks, audio.status, headers=audio.headers)


async def _csv(request: Request) -> Response:
    tasks, task_id = calls_of(request), int(request.path_params["task_id"])
    await tasks.task(task_id, organization_of(request))
    chosen, sort = filter_of(request.query_params)
    whole = request.state.session.may_edit
    first = await calls_page(tasks, task_id, chosen, sort, "", CSV_ROWS)

    async def written() -> AsyncIterator[bytes]:
        yield f"\ufeff{lines([COLUMNS])}".encode()
        part = first
        while True:
            yield lines(_cells(call, whole) for call in part.calls).encode("utf-8", "replace")
            if not part.after:
                return
            part = await calls_page(tasks, task_id, chosen, sort, part.after, CSV_ROWS)

    name = f'attachment; filename="calls-{task_id}.csv"'
    return StreamingResponse(written(), media_type="text/csv; charset=utf-8", headers={"content-disposition": name})


def _cells(call: Call, whole: bool) -> list[Any]:
    stands, number, said = call.follow_up, str if whole else masked, str if whole else masked_within
    return [
        *(call.id, call.call_job_id, call.leads_id, said(call.name), number(call.phone)),
        *(call.called_at, call.call_status, call.is_interested, said(stands.leads_remark), stands.next_follow_time),
        *(call.outcome, stands.change, int(call.opted_out)),
    ]


async def calls_page(
    tasks: CallTasks, task_id: int, chosen: CallFilter, sort: str, after: str, limit: int = calls.A_PAGE
) -> Calls:
    """A page of a campaign's calls.

    Raises:
        HTTPException: it begins nowhere.
    """
    try:
        return await tasks.database.run(calls.page, task_id, chosen, sort, after, limit)
    except ValueError:
        raise HTTPException(404, "there is no such page") from None


def filter_of(query: Mapping[str, str]) -> tuple[CallFilter, str]:
    """Which calls, in which order, a query asks for; what it cannot mean is left out."""
    interest, status, sort = query.get("interest", ""), query.get("status", ""), query.get("sort", "")
    day = None
    with suppress(ValueError):
        day = date.fromisoformat(query.get("day", ""))
    # The last one there is has no end.
    day = None if day == date.max else day
    chosen = CallFilter(
        interest=int(interest) if interest in ("0", "1", "2") else None,
        status=status if status in STATUSES else "",
        **{name: query.get(name) == "1" for name in ("failed", "edited", "opted_out", "to_read")},
        day=day,
        words=query.get("words", "").strip()[:80],
    )
    return chosen, sort if sort in calls.sorts(chosen) else "worth" if chosen.to_read else "newest"


def query_of(chosen: CallFilter, sort: str) -> str:
    """As :func:`filter_of` reads it."""
    given = {name: value for name, value in asdict(chosen).items() if value not in (None, "", False)}
    given |= {"sort": sort} if sort != "newest" else {}
    return urlencode({name: 1 if value is True else value for name, value in given.items()})


def recounting(tasks: CallTasks, *task_ids: int, older_than: timedelta = timedelta()) -> BackgroundTask:
    """Count campaigns anew once the answer has left."""

    async def recount() -> None:
        # As long as the database does not answer, what is kept of it is shown.
        with suppress(CallTasksError):
            for task_id in task_ids:
                await tasks.recount(task_id, older_than=older_than)

    return BackgroundTask(recount)


def local(tasks: CallTasks, moment: datetime) -> datetime:
    """A time of our own tables, UTC, by the wall clock."""
    return moment.replace(tzinfo=UTC).astimezone(tasks.database.zone)


routes = [
    Route("/campaigns", _campaigns),
    Route("/campaigns/{task_id:int}", _campaign),
    Route("/campaigns/{task_id:int}/calls.csv", _csv),
    Route("/calls/{list_id:int}", _call),
    Route("/calls/{list_id:int}/recording", _recording),
]
