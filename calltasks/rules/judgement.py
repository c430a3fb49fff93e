"""What the model is asked and what of its answer is believed (rule 6.2).

The prompt is ``prompts/judgement.zh.md``; its first line is its version, which the ledger keeps with every answer.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from calltasks.rules.answers import THOUGHT_NAMES, UnreadableTextError, objects, plain_name, same
from calltasks.rules.customers_words import CUSTOMER, ROBOT, claim, proven
from calltasks.rules.follow_up_times import resolve
from calltasks.transcripts import omitted

_VERSION, _, SYSTEM = (Path(__file__).parent / "prompts" / "judgement.zh.md").read_text("utf-8").partition("\n\n")
PROMPT_VERSION = _VERSION.removeprefix("version:").strip()
TRANSCRIPT_CHARACTERS = 24_000
"""More than any call says; a longer transcript is shortened in its middle."""
REMARK_CHARACTERS = 2_000
WEEKDAYS = "一二三四五六日"
REQUIRED = frozenset({"leadsremark", "isinterested"})
SCHEMA = {
    "type": "object",
    "properties": {
        "leads_remark": {"type": "string"},
        "is_interested": {"type": "integer", "enum": [0, 1, 2]},
        "next_follow_time": {"type": ["string", "null"]},
        "do_not_call_evidence": {"type": "string"},
        "do_not_call": {"type": "boolean"},
        "wrong_number": {"type": "boolean"},
        "evidence": {"type": ["string", "null"]},
    },
    "required": [
        *("leads_remark", "is_interested", "next_follow_time"),
        *("do_not_call_evidence", "do_not_call", "wrong_number", "evidence"),
    ],
    "additionalProperties": False,
}
"""What an answer looks like, for a model that can be held to it. Strict schemas require every field.

A model that first copies the sentence decides by it. ``evidence`` is last: an answer that has it is whole."""
WHOLE = REQUIRED | {"nextfollowtime", "evidence"}
NAMES = WHOLE | {"donotcall", "donotcallevidence", "wrongnumber"}
SHORT = {"temperature": "t", "max_tokens": "m", "seed": "s"}
_NUMERAL = re.compile(r"[012](?:\.0+)?")
_NO_REMARK = re.compile(
    # Placeholders, errors of programs, excuses of models, words of the prompt: nothing that a salesperson can use.
    r"[\W_]*(?:null|none|nil|n/?a|无|空|暂无|string|字符串|undefined)?[\W_]*"
    r"|[\W_]*(?:error|exception|traceback|internal server|bad gateway|service unavailable|http/?\s?[0-9]+)\b.*"
    r"|(?:(?:错误|异常)\s*[:：]|(?:请求|调用|解析|系统|服务|接口|分析)(?:失败|错误|异常|繁忙|超时)).*"
    r"|(?:很?抱歉|对不起|作为.{0,8}(?:AI|人工智能|语言模型|助手)|(?:i'?m |i am )?sorry|as an (?:ai|language)).*"
    r"|<!?[a-z].*|.*(?:leads_remark|is_interested|next_follow_time|do_not_call|wrong_number|</?think).*"
    r"|.*(?:用一到三句中文概括|不超过 ?200 ?字).*",
    re.DOTALL | re.IGNORECASE,
)


def version(sampling: Mapping[str, float]) -> str:
    """The version of a judgement: of its prompt, and how the model was to choose its words, where that is set."""
    how = "".join(
        f"{SHORT[name]}{value:g}" if name == "temperature" else f"{SHORT[name]}{value}"
        for name, value in sampling.items()
    )
    return f"{PROMPT_VERSION}-{how}" if how else PROMPT_VERSION


class InvalidAnswerError(Exception):
    """The model's answer is not a judgement; nothing of it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A call judged: 0 cannot tell, 1 interested, 2 not interested. ``next_follow_time`` is aware, or None.

    Attributes:
        do_not_call: the customer's own sentence that refuses further calls, or ``""``.
        unproven: the model speaks of such a refusal, and of no sentence that the customer said.
        wrong_number: the number is not the lead's (rule 6.12).
    """

    leads_remark: str
    is_interested: int
    next_follow_time: datetime | None
    evidence: str
    do_not_call: str = ""
    unproven: bool = False
    wrong_number: bool = False


def read_answer(text: str, *, called_at: datetime, transcript: str) -> Judgement:
    """The judgement in a model's answer, however it is wrapped and quoted (docs/judgements.md).

    Args:
        text: the answer.
        called_at: aware; relative times count from it, and earlier ones are dropped.
        transcript: what the model read; evidence that is not in it is dropped.

    Raises:
        InvalidAnswerError: there is no judgement in it, or more than one; or interest or remark are missing or wrong.
    """
    try:
        found = [_judgement(fields, called_at, transcript) for fields in _readings(objects(text, WHOLE))]
    except (UnreadableTextError, RecursionError):
        raise InvalidAnswerError from None
    if not found or any(other != found[0] for other in found):
        raise InvalidAnswerError
    return found[0]


def _readings(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in a value that have a required field; what they are wrapped in is no matter."""
    if isinstance(value, list):
        for inner in value:
            yield from _readings(inner)
    if not isinstance(value, tuple):
        return
    fields: dict[str, Any] = {}
    for name, inner in value:
        plain = plain_name(name)
        if plain in THOUGHT_NAMES:
            continue
        if plain not in NAMES:
            yield from _readings(objects(inner, WHOLE) if isinstance(inner, str) else inner)
        elif not same(fields.setdefault(plain, inner), inner):
            raise InvalidAnswerError
    if REQUIRED & fields.keys():
        yield fields


def _judgement(fields: dict[str, Any], called_at: datetime, transcript: str) -> Judgement:
    """An odd optional field is dropped, an odd required one refuses the answer."""
    time, evidence = fields.get("nextfollowtime"), fields.get("evidence")
    sentences = [
        _clean(one) for one in (evidence if isinstance(evidence, list) else [evidence]) if isinstance(one, str)
    ]
    refusal = _refusal(fields, transcript)
    wrong, why = claim(fields.get("wrongnumber"))
    return Judgement(
        leads_remark=_remark(fields.get("leadsremark")),
        is_interested=_interest(fields.get("isinterested")),
        next_follow_time=resolve(time, call_time=called_at) if isinstance(time, str) else None,
        evidence=next((sentence for sentence in sentences if sentence and sentence in transcript), ""),
        do_not_call=refusal or "",
        unproven=refusal == "",
        wrong_number=wrong is not False and bool(wrong or proven(why, transcript)),
    )


def _refusal(fields: dict[str, Any], transcript: str) -> str | None:
    """The sentence of the customer that refuses further calls, ``""`` if it is not proven; None: nothing is refused.

    A model's word alone silences nobody.
    """
    refused, sentences = claim(fields.get("donotcall"))
    if refused is False or not (refused or sentences):
        return None
    sentences += claim(fields.get("donotcallevidence"))[1]
    return proven(sentences or claim(fields.get("evidence"))[1], transcript)


def _interest(value: Any) -> int:
    """0, 1 or 2, as a number or as its numeral. A truth value or a word is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidAnswerError
    numeral = unicodedata.normalize("NFKC", str(value)).strip()
    if not _NUMERAL.fullmatch(numeral):
        raise InvalidAnswerError
    return int(numeral[0])


def _remark(value: Any) -> str:
    remark = _clean(value) if isinstance(value, str) else ""
    if len(remark) > REMARK_CHARACTERS or _NO_REMARK.fullmatch(remark):
        raise InvalidAnswerError
    return remark


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "").strip()


def question(transcript: str, called_at: datetime) -> str:
    """What the model is to judge: the time of the call and the transcript, marked as material."""
    when = f"{called_at:%Y-%m-%d %H:%M}（星期{WEEKDAYS[called_at.weekday()]}）"
    return f"通话时间：{when}\n\n<通话记录>\n{transcript}\n</通话记录>\n\n请按规则判断以上通话，只输出 JSON。"


def render(conversation: str) -> str:
    """A stored conversation (JSON) as lines of speech; ``""`` if nobody says anything in it."""
    try:
        turns = json.loads(conversation)
    except (ValueError, RecursionError):
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
            lines.append((ROBOT if turn.get("Speaker") == "Robot" else CUSTOMER) + said)
    # JSON can hold half a character, which nobody can be sent.
    text = "\n".join(lines).encode("utf-8", "replace").decode()
    if len(text) > TRANSCRIPT_CHARACTERS:
        half = TRANSCRIPT_CHARACTERS // 2
        text = f"{text[:half]}\n……\n{text[-half:]}"
    return text


def fingerprint(transcript: str) -> str:
    """SHA-256 of what a model reads of a conversation."""
    return hashlib.sha256(transcript.encode()).hexdigest()
