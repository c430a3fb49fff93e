"""What people may do with a campaign: what the command line does, by the same rules, each asking once (rule 13.4)."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calltasks.api.access import CONSOLE
from calltasks.api.console.pages import calls_of, calls_page, filter_of, organization_of, query_of
from calltasks.api.console.rendering import page
from calltasks.api.console.sessions import form_of
from calltasks.database.tables import calls
from calltasks.names import ACTIONS, REFRESH
from calltasks.rules.reanalysis import Reanalysis
from calltasks.trial import try_out

ANALYSE = "analyse-again"
STEPS = (REFRESH, *ACTIONS, ANALYSE)
MOST_CALLS = 500
"""Calls that one request to judge again takes; then the next ones are offered. The command line takes all."""
CONFIRM_SECONDS = timedelta(seconds=15)
"""So long the platform's word is waited for: with what comes before it, less than a request may take."""
TRIED = 5
"""Calls of a preview: each costs one question to the model."""


async def form_to_edit(request: Request) -> dict[str, str]:
    """The fields of a form that changes something.

    Raises:
        HTTPException: the session may only read, or the form is not ours.
    """
    if not request.state.session.may_edit:
        raise HTTPException(403, "this token may only read")
    return await form_of(request, request.state.session)


async def _confirm(request: Request) -> Response:
    tasks, task_id, action = calls_of(request), int(request.path_params["task_id"]), request.path_params["action"]
    if action not in STEPS or not request.state.session.may_edit:
        raise HTTPException(403 if action in STEPS else 404, "this token may only read")
    await tasks.task(task_id, organization_of(request))
    if action == ANALYSE:
        return await _analyse(request, task_id, tried=False)
    return page(request, "confirm.html", task_id=task_id, action=action, live=False)


async def _act(request: Request) -> Response:
    fields = await form_to_edit(request)
    tasks, task_id, action = calls_of(request), int(request.path_params["task_id"]), request.path_params["action"]
    if action not in STEPS:
        raise HTTPException(404, "there is no such action")
    await tasks.task(task_id, organization_of(request))
    if action == ANALYSE and fields.get("preview"):
        return await _analyse(request, task_id, tried=True)
    if action == ANALYSE:
        return await _analyse_again(request, task_id, fields)
    if action == REFRESH:
        await tasks.signal(task_id, REFRESH)
        return RedirectResponse(f"{CONSOLE}/campaigns/{task_id}", 303)
    answer = await tasks.control(task_id, action, patience=CONFIRM_SECONDS)
    if answer["done"] is False:
        raise HTTPException(409, str(answer["answer"]))
    if answer["done"] is None:
        return page(request, "confirm.html", 202, task_id=task_id, action=action, asked=True)
    return RedirectResponse(f"{CONSOLE}/campaigns/{task_id}", 303)


async def _analyse_again(request: Request, task_id: int, fields: dict[str, str]) -> Response:
    """Have those calls judged again whose number was shown, whatever the filter finds by now; then offer the next."""
    tasks, shown = calls_of(request), fields.get("calls", "")
    if not re.fullmatch(r"[0-9]{1,19}(,[0-9]{1,19})*", shown) or shown.count(",") >= MOST_CALLS:
        raise HTTPException(400, "the form does not say which calls; go back and open the page again")
    jobs = await tasks.database.run(calls.job_ids, task_id, [int(id_) for id_ in shown.split(",")])
    if jobs:
        await tasks.force_analyze(task_id, Reanalysis(call_job_ids=jobs))
    query, behind = query_of(*filter_of(request.query_params)), fields.get("behind", "")
    here = f"{CONSOLE}/campaigns/{task_id}"
    if behind:
        here, query = f"{here}/{ANALYSE}", "&".join(filter(None, (query, urlencode({"after": behind}))))
    return RedirectResponse(f"{here}?{query}", 303)


async def _analyse(request: Request, task_id: int, *, tried: bool) -> Response:
    """What judging the chosen calls again means; ``tried``: with what the model would say of the first ones."""
    tasks = calls_of(request)
    chosen, sort = filter_of(request.query_params)
    after = request.query_params.get("after", "")
    part = await calls_page(tasks, task_id, chosen, sort, after, MOST_CALLS)
    trial = None
    if tried and part.calls:
        first = Reanalysis(call_job_ids=[call.call_job_id for call in part.calls[:TRIED]])
        row = await tasks.task(task_id)
        trial = await try_out(tasks.database, tasks.clients.model, row, first, lambda _: None)
    return page(
        request,
        "analyse.html",
        task_id=task_id,
        count=len(part.calls),
        shown=",".join(str(call.id) for call in part.calls),
        after=after,
        behind=part.after,
        kept=sum(bool(call.follow_up.change) for call in part.calls),
        trial=trial,
        tried=TRIED,
        query=query_of(chosen, sort),
        live=False,
    )


routes = [
    Route("/campaigns/{task_id:int}/{action}", _confirm, methods=["GET"]),
    Route("/campaigns/{task_id:int}/{action}", _act, methods=["POST"]),
]
