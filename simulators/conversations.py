"""What is said in answered calls: the project's own courses or those of a file, rendered once and shared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simulators.dialogues import COURSES, REFUSALS, SLOTS, Course

Turns = tuple[tuple[str, str], ...]
_SECONDS_A_CHARACTER = 0.18


def json_text(value: str) -> bytes:
    """`value` as JSON in UTF-8; what UTF-8 cannot hold (lone surrogates) as escapes."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


class Conversation:
    """The turns of a call, ("Robot" or "Contact", text), with what a sane reader would judge of them."""

    __slots__ = (
        "_offsets",
        "_template",
        "course",
        "interest",
        "refusal",
        "task_status",
        "turns",
        "when",
        "wrong_number",
    )

    def __init__(
        self,
        course: str,
        turns: Turns,
        *,
        interest: int | None = None,
        when: str = "",
        task_status: str = "SucceededFinish",
        refusal: str = "",
        wrong_number: bool = False,
    ) -> None:
        self.course = course
        self.turns = turns
        self.interest = interest
        self.when = when
        self.task_status = task_status
        self.refusal = refusal
        self.wrong_number = wrong_number
        offsets, offset = [], 1.0
        for _, text in turns:
            offsets.append(int(offset * 1000))
            offset += 1.2 + len(text) * _SECONDS_A_CHARACTER
        self._offsets = offsets
        self._template = b",".join(
            b'{"Speaker":%b,"Script":%b,"Timestamp":%%d}'
            % (json_text(speaker).replace(b"%", b"%%"), json_text(text).replace(b"%", b"%%"))
            for speaker, text in turns
        )

    def rendered(self, start_ms: int) -> bytes:
        """The JSON array of a call that began at the Unix time `start_ms`."""
        return b"[" + self._template % tuple([start_ms + offset for offset in self._offsets]) + b"]"


class Conversations:
    """Chooses conversations and keeps the rendered ones.

    With a `refusal_rate` of 0..1 so many of those that are drawn refuse further calls, and no others; below 0, those of
    `COURSES` that do.
    """

    def __init__(self, file: str = "", refusal_rate: float = -1.0) -> None:
        self._own: dict[tuple[str, int], Conversation] = {}
        self._given: dict[Turns, Conversation] = {}
        self._courses = {course.id: course for course in (*COURSES, *REFUSALS)}
        self._refusal_rate = refusal_rate
        self._drawn = COURSES if refusal_rate < 0 else tuple(course for course in COURSES if not course.refusal)
        self._foreign = [Conversation(name, turns) for name, turns in _read(Path(file))] if file else []

    def choose(self, course_id: str, turns: Turns, number: int, variant: int) -> Conversation:
        """The given turns; else the named course; else what `number` draws. `variant` draws the slots."""
        if turns:
            return self._given.setdefault(turns, Conversation("given", turns))
        if course_id:
            return self.of(self._courses[course_id], variant)
        if self._foreign:
            return self._foreign[number % len(self._foreign)]
        refuses = _share(number) < self._refusal_rate
        courses = REFUSALS if refuses else self._drawn
        return self.of(courses[number % len(courses)], variant)

    def known(self, course_id: str) -> bool:
        """Whether there is such a course."""
        return course_id in self._courses

    def of(self, course: Course, variant: int) -> Conversation:
        key = (course.id, variant % VARIANTS)
        if key not in self._own:
            slots = {name: values[(key[1] * 7 + len(course.id)) % len(values)] for name, values in SLOTS.items()}
            turns = tuple(("Robot" if who == "R" else "Contact", text.format_map(slots)) for who, text in course.turns)
            self._own[key] = Conversation(
                course.id,
                turns,
                interest=course.interest,
                when=course.when.format_map(slots),
                task_status=course.ended,
                refusal=course.refusal,
                wrong_number=course.wrong_number,
            )
        return self._own[key]


VARIANTS = 12


def _share(number: int) -> float:
    """A number in [0, 1) that has nothing to do with the number's remainders, which draw the course."""
    return (number * 2654435761 % 2**32) / 2**32


def _read(path: Path) -> Iterable[tuple[str, Turns]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record: dict[str, Any] = json.loads(line)
            yield str(record["id"]), tuple((str(turn["speaker"]), str(turn["text"])) for turn in record["turns"])
