"""Pages from templates, in the language that the browser prefers."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from starlette.requests import Request
from starlette.responses import HTMLResponse

from calltasks.api.access import CONSOLE
from calltasks.api.console.showing import HEIGHT, WIDTH, masked, masked_within, shares
from calltasks.api.console.words import CHINESE


@pass_context
def _for_her(context: Context, value: object) -> object:
    """What stands in a page, as the session may see it."""
    return value if context.get("may_edit") or not isinstance(value, str) else masked_within(value)


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_for_her,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.update(base=CONSOLE, shares=shares, WIDTH=WIDTH, HEIGHT=HEIGHT)


def language(request: Request) -> str:
    """``zh`` or ``en``, whichever the browser likes better; ``en`` if it likes neither."""
    liked: dict[str, float] = {}
    for one in request.headers.get("accept-language", "").split(","):
        if found := re.fullmatch(r"\s*(zh|en)(?:-[\w-]+)?\s*(?:;\s*q=([01](?:\.\d{1,3})?))?\s*", one, re.IGNORECASE):
            name = found[1].lower()
            liked[name] = max(liked.get(name, 0.0), float(found[2] or 1))
    return "zh" if liked.get("zh", 0.0) > liked.get("en", 0.0) else "en"


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page."""
    spoken, session = language(request), request.state.session
    may_edit = session is not None and session.may_edit

    def t(text: str, **parts: Any) -> str:
        said = CHINESE[text] if spoken == "zh" else text
        return said.format(**parts) if parts else said

    def at(moment: datetime | None) -> str:
        return "–" if moment is None else f"{moment:%Y-%m-%d %H:%M}"

    def phone(number: str) -> str:
        return number if may_edit else masked(number)

    html = _TEMPLATES.get_template(template).render(
        values | {"t": t, "at": at, "phone": phone, "lang": spoken, "session": session, "may_edit": may_edit}
    )
    return HTMLResponse(html, status)
