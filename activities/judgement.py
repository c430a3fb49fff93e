"""What the model is asked and what of its answer is believed (SPEC 6).

The prompt is ``prompts/judgement.zh.md``; its first line is its version, which the ledger keeps with every answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from activities.follow_up_times import resolve
from activities.transcripts import omitted

_VERSION, _, SYSTEM = (Path(__file__).parent / "prompts" / "judgement.zh.md").read_text("utf-8").partition("\n\n")
PROMPT_VERSION = _VERSION.removeprefix("version:").strip()
TRANSCRIPT_CHARACTERS = 24_000
"""More than any call says; a longer transcript is shortened in its middle."""
REMARK_CHARACTERS = 2_000
WEEKDAYS = "一二三四五六日"
_FENCE = re.compile(r"\A\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class InvalidAnswerError(Exception):
    """The model's answer is not a judgement; nothing of it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A call judged: 0 cannot tell, 1 interested, 2 not interested. ``next_follow_time`` is aware, or None."""

    leads_remark: str
    is_interested: int
    next_follow_time: datetime | None
    evidence: str


def _clean(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode().replace("\0", "") if isinstance(value, str) else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a truth value is no interest")
    return value


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    leads_remark: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=REMARK_CHARACTERS),
        BeforeValidator(_clean),
    ]
    is_interested: Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=2)]
    next_follow_time: str | None = None
    evidence: str | None = None


def read_answer(text: str, *, called_at: datetime, transcript: str) -> Judgement:
    """The judgement in a model's answer. A fence around the JSON is forgiven, a wrong value is not.

    Args:
        text: the answer.
        called_at: aware; relative times count from it, and earlier ones are dropped.
        transcript: what the model read; evidence that is not in it is dropped.

    Raises:
        InvalidAnswerError: it is no JSON object, or a value is missing or wrong.
    """
    fenced = _FENCE.match(text)
    try:
        answer = _Answer.model_validate(json.loads(fenced[1] if fenced else text))
    except (ValidationError, ValueError, RecursionError):
        raise InvalidAnswerError from None
    evidence = (answer.evidence or "").strip()
    return Judgement(
        leads_remark=answer.leads_remark,
        is_interested=answer.is_interested,
        next_follow_time=resolve(answer.next_follow_time, call_time=called_at),
        evidence=evidence if evidence and evidence in transcript else "",
    )


def question(transcript: str, called_at: datetime) -> str:
    """What the model is to judge: the time of the call and the transcript, marked as material."""
    when = f"{called_at:%Y-%m-%d %H:%M}（星期{WEEKDAYS[called_at.weekday()]}）"
    return f"通话时间：{when}\n\n<通话记录>\n{transcript}\n</通话记录>\n\n请按规则判断以上通话，只输出 JSON。"


def render(conversation: str) -> str:
    """A stored conversation (JSON) as lines of speech; ``""`` if nobody says anything in it."""
    try:
        turns = json.loads(conversation)
    except ValueError:
        return ""
    lines = []
    for turn in turns if isinstance(turns, list) else []:
        if not isinstance(turn, dict):
            continue
        script = turn.get("Script")
        if omitted(turn):
            lines.append("……")
        elif isinstance(script, str) and script.strip():
            # Angle brackets could imitate the marks around the transcript, a line break another speaker.
            said = " ".join(script.replace("<", "＜").replace(">", "＞").split())
            lines.append(("机器人：" if turn.get("Speaker") == "Robot" else "客户：") + said)
    text = "\n".join(lines)
    if len(text) > TRANSCRIPT_CHARACTERS:
        half = TRANSCRIPT_CHARACTERS // 2
        text = f"{text[:half]}\n……\n{text[-half:]}"
    return text


def fingerprint(conversation: str) -> str:
    """SHA-256 of the conversation's content, whatever the order of its keys (MySQL reorders them)."""
    try:
        canonical = json.dumps(json.loads(conversation), sort_keys=True, ensure_ascii=True)
    except ValueError:
        canonical = conversation
    return hashlib.sha256(canonical.encode("utf-8", "replace")).hexdigest()
