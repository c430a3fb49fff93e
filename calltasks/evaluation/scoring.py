"""Labelled conversations put to the model as calls are, and how its judgements compare with the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

from calltasks.concurrency import for_each
from calltasks.database.connection import SERVICE as DATABASE
from calltasks.errors import ServiceError, UnreadableAnswerError
from calltasks.evaluation.conversations import Labelled
from calltasks.judging import AT_ONCE, INVALID, ask
from calltasks.rules.judgement import Judgement, render

if TYPE_CHECKING:
    from calltasks.model.analysis import AnalysisModel

TENANT = "evaluation"
CLOSE = timedelta(days=1)
INTERESTS = ("0", "1", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the model made of a conversation: a judgement, or ``problem`` (an error's code)."""

    labelled: Labelled
    judgement: Judgement | None
    problem: str
    input_tokens: int
    output_tokens: int

    @property
    def got(self) -> str:
        """The interest, or ``invalid`` or ``error``."""
        if self.judgement is not None:
            return str(self.judgement.is_interested)
        return "invalid" if self.problem == INVALID else "error"

    @property
    def time(self) -> str:
        """How the next time compares with the label's; ``""`` without a judgement."""
        if self.judgement is None:
            return ""
        expected, got = self.labelled.next_time, _minute(self.judgement.next_follow_time)
        if expected is None:
            return "rightly_none" if got is None else "invented"
        if got is None:
            return "missed"
        if got == expected:
            return "exact"
        return "within_a_day" if abs(got - expected) <= CLOSE else "wrong"

    @property
    def refusal(self) -> tuple[bool, bool]:
        """Whether further calls are refused, as labelled and as judged; an answer that is invalid says no."""
        return bool(self.labelled.do_not_call), self.judgement is not None and bool(self.judgement.do_not_call)

    @property
    def wrong_number(self) -> tuple[bool, bool]:
        """Likewise, whether the number is not the lead's."""
        return self.labelled.wrong_number, self.judgement is not None and self.judgement.wrong_number

    @property
    def agrees(self) -> bool:
        """Whether all is as labelled; a time within a day is not, the words of a refusal are no matter."""
        right = self.got == str(self.labelled.is_interested) and self.time in ("exact", "rightly_none")
        return right and all(expected == got for expected, got in (self.refusal, self.wrong_number))


async def evaluate(
    model: AnalysisModel, conversations: Sequence[Labelled], *, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Judge every conversation once, a few at a time.

    Args:
        model: the configured one, within its rate limit.
        conversations: labelled.
        advance: called after each of them.

    Returns:
        The report, as ``evaluate --json`` prints it (docs/judgements.md).

    Raises:
        ServiceError: the database, which keeps the rate limit, is out of reach; what the model does wrong is reported.
    """
    began = monotonic()
    verdicts: dict[str, Verdict] = {}

    async def one(labelled: Labelled) -> None:
        verdicts[labelled.id] = await _judge(model, labelled)
        advance()

    await for_each(conversations, one, at_once=AT_ONCE)
    report = _report([verdicts[labelled.id] for labelled in conversations])
    return {
        "model": model.name,
        "endpoint": model.endpoint,
        "prompt_version": model.version,
        **report,
        "seconds": round(monotonic() - began, 1),
    }


async def _judge(model: AnalysisModel, labelled: Labelled) -> Verdict:
    judgement, problem, cost = None, "", (0, 0)
    try:
        judgement, said = await ask(model, render(labelled.conversation()), labelled.called_at, TENANT)
        cost = said.input_tokens, said.output_tokens
    except UnreadableAnswerError as error:
        problem, cost = error.code, (error.input_tokens, error.output_tokens)
    except ServiceError as error:
        if error.service == DATABASE:
            # The rate limit is kept in the database: when that fails, the model has not.
            raise
        problem = error.code
    return Verdict(labelled=labelled, judgement=judgement, problem=problem, input_tokens=cost[0], output_tokens=cost[1])


def _report(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    answered = [verdict for verdict in verdicts if verdict.got != "error"]
    judged = [verdict for verdict in verdicts if verdict.judgement is not None]
    unreadable = [verdict for verdict in answered if verdict.judgement is None]
    right = sum(verdict.got == str(verdict.labelled.is_interested) for verdict in answered)
    pairs = Counter((str(verdict.labelled.is_interested), verdict.got) for verdict in verdicts)
    columns = (*INTERESTS, "invalid", "error")
    times = Counter(verdict.time for verdict in judged)
    timely = times["exact"] + times["rightly_none"]
    return {
        "conversations": len(verdicts),
        "judged": len(judged),
        "interest": {
            "accuracy": _share(right, len(answered)),
            "right": right,
            "of": len(answered),
            "confusion": {label: {got: pairs[label, got] for got in columns} for label in INTERESTS},
        },
        "next_time": {
            "accuracy": _share(timely, len(judged)),
            **{kind: times[kind] for kind in ("exact", "within_a_day", "wrong", "missed", "invented", "rightly_none")},
        },
        "do_not_call": {
            **_found(verdict.refusal for verdict in answered),
            "unproven": sum(verdict.judgement is not None and verdict.judgement.unproven for verdict in verdicts),
        },
        "wrong_number": _found(verdict.wrong_number for verdict in answered),
        "disagreements": [_disagreement(verdict) for verdict in judged if not verdict.agrees],
        "invalid": [verdict.labelled.id for verdict in verdicts if verdict.got == "invalid"],
        "errors": [{"id": v.labelled.id, "code": v.problem} for v in verdicts if v.got == "error"],
        "unreadable": {
            "share": _share(len(unreadable), len(answered)),
            "tokens": sum(verdict.input_tokens + verdict.output_tokens for verdict in unreadable),
        },
        "calls": len(verdicts),
        "input_tokens": sum(verdict.input_tokens for verdict in verdicts),
        "output_tokens": sum(verdict.output_tokens for verdict in verdicts),
    }


def _found(pairs: Iterable[tuple[bool, bool]]) -> dict[str, Any]:
    """How well something was found: pairs of whether it is there and whether it was seen."""
    counts = Counter(pairs)
    right, invented, missed = counts[True, True], counts[False, True], counts[True, False]
    precision, recall = _share(right, right + invented), _share(right, right + missed)
    return {"precision": precision, "recall": recall, "right": right, "invented": invented, "missed": missed}


def _disagreement(verdict: Verdict) -> dict[str, Any]:
    judgement, labelled = verdict.judgement, verdict.labelled
    assert judgement is not None
    return {
        "id": labelled.id,
        "expected": {
            "is_interested": labelled.is_interested,
            "next_follow_time": _shown(labelled.next_follow_time),
            "do_not_call": labelled.do_not_call,
            "wrong_number": labelled.wrong_number,
        },
        "got": {
            "is_interested": judgement.is_interested,
            "next_follow_time": _shown(judgement.next_follow_time),
            "do_not_call": judgement.do_not_call,
            "wrong_number": judgement.wrong_number,
            "leads_remark": judgement.leads_remark,
        },
        "next_time": verdict.time,
        "evidence": judgement.evidence,
        "note": labelled.note,
    }


def _minute(moment: datetime | None) -> datetime | None:
    """Labels hold no seconds."""
    return moment and moment.replace(second=0, microsecond=0)


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
