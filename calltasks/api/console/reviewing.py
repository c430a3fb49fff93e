"""What people say of judgements: that they are right, or how it was (rule 13.5)."""

from __future__ import annotations

from datetime import datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calltasks.api.access import CONSOLE
from calltasks.api.console.pages import calls_of, filter_of, organization_of, own_call, query_of, recounting
from calltasks.api.console.rendering import page
from calltasks.api.console.steering import form_to_edit
from calltasks.database.tables import calls
from calltasks.database.tables.calls import Call
from calltasks.database.tables.corrections import Word
from calltasks.errors import ChangedMeanwhileError
from calltasks.rules.judgement import REMARK_CHARACTERS

NOBODY = "console"
"""Who gave no name."""


async def _right(request: Request) -> Response:
    fields = await form_to_edit(request)
    tasks, call = calls_of(request), await own_call(request)
    behind = await _behind(request, call)
    try:
        await tasks.confirm(call.id, organization_of(request), by=_by(request), seen=fields.get("seen", ""))
    except ChangedMeanwhileError:
        return _changed(request, call)
    return RedirectResponse(f"{CONSOLE}/calls/{behind or call.id}?{_query(request)}", 303)


async def _correct(request: Request) -> Response:
    fields = await form_to_edit(request)
    call = await own_call(request)
    word, seen = word_of(fields), fields.get("seen", "")
    try:
        await calls_of(request).correct(call.id, word, organization_of(request), by=_by(request), seen=seen)
    except ChangedMeanwhileError:
        return _changed(request, call, word.leads_remark)
    answer = RedirectResponse(f"{CONSOLE}/calls/{call.id}?{_query(request)}", 303)
    answer.background = recounting(calls_of(request), call.task_id)
    return answer


def _changed(request: Request, call: Call, remark: str = "") -> Response:
    """What was said was said of something else than is there now; ``remark``: is not lost on who wrote it."""
    return page(request, "changed.html", 409, list_id=call.id, remark=remark, query=_query(request))


def word_of(fields: dict[str, str]) -> Word:
    """What a form says of a call.

    Raises:
        HTTPException: it cannot be that.
    """
    interest, remark = fields.get("is_interested", ""), fields.get("leads_remark", "").strip()
    said = fields.get("next_follow_time", "")
    try:
        next_time = datetime.fromisoformat(said) if said else None
    except ValueError:
        raise HTTPException(400, "the next time must be a day and an hour") from None
    if next_time is not None and (next_time.tzinfo or not 2000 <= next_time.year < 2100):
        raise HTTPException(400, "the next time must be a day and an hour of this century")
    if interest not in ("0", "1", "2"):
        raise HTTPException(400, "say whether the customer is interested")
    if not remark or len(remark) > REMARK_CHARACTERS:
        raise HTTPException(400, f"the remark must have between 1 and {REMARK_CHARACTERS} characters")
    return Word(
        is_interested=int(interest),
        leads_remark=remark.replace("\0", "").replace("\r\n", "\n"),
        next_follow_time=next_time and next_time.replace(second=0, microsecond=0),
        do_not_call=fields.get("do_not_call") == "1",
    )


async def _behind(request: Request, call: Call) -> int | None:
    """The next call of those that are to be read."""
    chosen, sort = filter_of(request.query_params)
    if not chosen.to_read:
        return None
    return await calls_of(request).database.run(calls.neighbour, call, chosen, sort, before=False)


def _by(request: Request) -> str:
    return request.state.session.name or NOBODY


def _query(request: Request) -> str:
    return query_of(*filter_of(request.query_params))


routes = [
    Route("/calls/{list_id:int}/right", _right, methods=["POST"]),
    Route("/calls/{list_id:int}/correct", _correct, methods=["POST"]),
]
