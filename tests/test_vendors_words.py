"""Vendors' words stay with the vendors: no code, action or field of theirs stands outside of their rooms."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from calltasks.model import errors as model_errors
from calltasks.platform import errors as platform_errors
from calltasks.platform import session

PROJECT = Path(__file__).resolve().parent.parent
VENDORS_ROOMS = ("calltasks/platform/", "calltasks/model/")
IN_ITS_WORDS = {"calltasks/api/examples.py"}
"""Shows what the HTTP interface hands on as the platform spells it."""


def texts(path: Path) -> Iterator[str]:
    """String literals, but for those that only tell."""
    tree = ast.parse(path.read_text("utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    yield from (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
    )


def sources(*rooms: str) -> Iterator[Path]:
    return (path for room in rooms for path in (PROJECT / room).rglob("*.py"))


def vendors_words() -> set[str]:
    """Codes, actions and fields as the vendors spell them: what stands in their rooms and looks so."""
    fields = {
        field.alias
        for name, kind in vars(session).items()
        if isinstance(kind, type) and issubclass(kind, session.Body)
        for field in kind.model_fields.values()
    }
    codes = {code for codes in model_errors.CODES.values() for code in codes.split()} | {*platform_errors.REFUSALS}
    written = {text for room in VENDORS_ROOMS for path in sources(room) for text in texts(path)}
    names = {text for text in written if re.fullmatch("[A-Z][A-Za-z]+", text)}
    words = {str(word) for word in codes | names | fields | {*platform_errors.WRONG_CLOCK, platform_errors.CAME_TWICE}}
    # A single word, such as ``Failed``, may be anybody's; the services' names are everybody's, and so is ``TaskId``.
    everybodys = {platform_errors.SERVICE, model_errors.SERVICE, "TaskId"}
    return {word for word in words if re.search("[a-z.][A-Z]", word)} - everybodys


def test_vendors_words_stay_with_the_vendors() -> None:
    words = vendors_words()
    assert {"NotExist.Job", "InvalidParameter", "Throttling.User", "AssignJobs", "JobGroupId", "LatestTask"} <= words
    spoken = re.compile("|".join(rf"(?<![A-Za-z]){re.escape(word)}" for word in sorted(words, key=len, reverse=True)))
    found = {
        (str(path.relative_to(PROJECT)), said[0])
        for path in sources("calltasks", "activities", "workflows")
        if not (name := str(path.relative_to(PROJECT))).startswith(VENDORS_ROOMS) and name not in IN_ITS_WORDS
        for text in texts(path)
        if (said := spoken.search(text))
    }
    assert found == set()
