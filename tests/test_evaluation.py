"""The labelled conversations are consistent, and `evaluate` reports truly how the model's judgements compare."""

import asyncio
import json
import re
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

import simulators
from calltasks.cli import commands
from calltasks.errors import PermanentError
from calltasks.evaluation.conversations import ConversationsError, Labelled, load
from calltasks.evaluation.scoring import evaluate
from calltasks.model.analysis import AnalysisModel, Completion
from calltasks.rules.customers_words import proven
from calltasks.rules.follow_up_times import resolve
from calltasks.rules.judgement import PROMPT_VERSION, render
from simulators import Fault, Simulators
from simulators.dialogues import COURSES, REFUSALS

SET = load()
WEEKDAYS = "一二三四五六日"


@pytest.fixture
def settings(database_url: str, simulator: Simulators, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulators.DASHSCOPE_API_KEY)
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", f"{simulator.url}/api/v1")
    monkeypatch.setenv("ANALYSIS_QPM", "120000")


async def command(*arguments: str) -> Result:
    """`starter.py evaluate …`, beside the simulators in this process."""
    return await asyncio.to_thread(CliRunner().invoke, commands.app, ["evaluate", *arguments], env={"COLUMNS": "200"})


# The labelled set


def test_the_set_is_large_balanced_and_varied() -> None:
    interests = Counter(labelled.is_interested for labelled in SET)
    assert len(SET) >= 120
    assert min(interests[interest] for interest in (0, 1, 2)) >= 30
    assert sum(labelled.next_follow_time is not None for labelled in SET) >= 30
    assert all(4 <= len(labelled.turns) <= 16 for labelled in SET)
    assert len({tuple(turn.text for turn in labelled.turns) for labelled in SET}) == len(SET)
    assert len({labelled.called_at.date() for labelled in SET}) > 60
    assert all(not re.search(r"\d{7}", turn.text) for labelled in SET for turn in labelled.turns)


def test_refusals_and_what_only_looks_like_them_are_many_and_proven() -> None:
    """A set in which everybody who says so refuses would praise a model that looks for words."""
    refusals = [labelled for labelled in SET if labelled.do_not_call]
    for labelled in refusals:
        assert proven([labelled.do_not_call], render(labelled.conversation())) == labelled.do_not_call, labelled.id
        assert labelled.next_follow_time is None, labelled.id
    assert len(refusals) >= 50 and len({labelled.do_not_call for labelled in refusals}) >= 50
    wrong_numbers = [labelled for labelled in SET if labelled.wrong_number]
    assert len(wrong_numbers) >= 8 and 2 <= sum(bool(labelled.do_not_call) for labelled in wrong_numbers) <= 4
    words = re.compile("[别不勿]要?再?老?重?复?[打拨]|联系我|莫打")
    alike = [
        labelled
        for labelled in SET
        if not labelled.do_not_call
        and any(words.search(turn.text) for turn in labelled.turns if turn.speaker == "Contact")
    ]
    assert len(alike) >= 25
    assert {labelled.is_interested for labelled in alike} == {0, 1, 2}


def test_the_set_shares_no_line_of_a_customer_with_the_simulators() -> None:
    theirs = {text for course in (*COURSES, *REFUSALS) for _, text in course.turns if len(text) > 6}
    ours = {turn.text for labelled in SET for turn in labelled.turns if turn.speaker == "Contact"}
    assert not theirs & ours


def test_calls_are_made_in_2026_by_day_in_the_zone_of_the_product() -> None:
    for labelled in SET:
        assert labelled.called_at.year == 2026 and labelled.called_at.utcoffset() == timedelta(hours=8), labelled.id
        assert 7 <= labelled.called_at.hour < 22, labelled.id


@pytest.mark.parametrize("labelled", [one for one in SET if one.next_follow_time], ids=lambda one: one.id)
def test_a_next_time_is_what_the_words_in_the_note_mean(labelled: Labelled) -> None:
    said = re.search("「([^」]+)」", labelled.note)
    assert said, "the words are missing"
    assert labelled.is_interested != 2
    assert labelled.next_time and labelled.next_time > labelled.called_at
    assert resolve(said[1], call_time=labelled.called_at) == labelled.next_time
    by_hand = _day(said[1], labelled.called_at.date())
    assert by_hand is None or by_hand == labelled.next_time.date()


def test_the_words_of_a_next_time_are_said_in_the_call() -> None:
    for labelled in SET:
        if found := re.search("「([^」]+)」", labelled.note):
            spoken = "".join(turn.text for turn in labelled.turns).replace("明儿个", "明天")
            assert found[1][:2] in spoken, labelled.id


def _day(words: str, called: date) -> date | None:
    """The day that the words name, counted apart from the product; None where they name none."""
    week = re.match(r"(下?)周([一二三四五六日])", words)
    if week:
        monday = called - timedelta(days=called.weekday())
        day = monday + timedelta(days=WEEKDAYS.index(week[2]) + (7 if week[1] else 0))
        return day if day >= called else day + timedelta(days=7)
    for word, days in (("大后天", 3), ("后天", 2), ("明天", 1), ("今天", 0), ("三天后", 3)):
        if words.startswith(word):
            return called + timedelta(days=days)
    if found := re.match(r"(\d+)月(\d+)号", words):
        return date(2026, int(found[1]), int(found[2]))
    return None


# Reading a file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_interested": 3}, "line 2: is_interested"),
        ({"called_at": "2026-03-10T15:20"}, "line 2: called_at"),
        ({"next_follow_time": "2026-03-09 10:00"}, "line 2: Value error, next_follow_time is not after called_at"),
        ({"turns": []}, "line 2: turns"),
        ({"id": "first"}, "line 2: the id first is there twice"),
        ({"surprise": 1}, "line 2: surprise"),
        (
            {"do_not_call": "好的，给您留车，请带上驾驶证。"},
            "line 2: Value error, do_not_call is not said by the customer",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    right = json.loads(SET[0].model_dump_json())
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(right | {"id": "first"}) + "\n" + json.dumps(right | change) + "\n", "utf-8")
    with pytest.raises(ConversationsError, match=message):
        load(path)


async def test_a_file_that_cannot_be_used_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for path, message in ((tmp_path / "none.jsonl", "No such file"), (empty, "holds no conversation")):
        result = await command(str(path))
        assert result.exit_code == 2
        assert message in result.stderr and len(result.stderr.splitlines()) == 1


# Judging


class Scripted:
    """A model that answers by the words of the customer."""

    name = "scripted"
    endpoint, fallback, version, under_way = "https://model.invalid", "", "1", 50

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    async def complete(self, *, system: str, user: str, tenant: str) -> Completion:
        answer = next(answer for words, answer in self._answers.items() if words in user)
        if isinstance(answer, Exception):
            raise answer
        return Completion(model=self.name, text=answer, input_tokens=100, output_tokens=10)


def said(name: str, interest: int, when: str | None, **more: Any) -> Labelled:
    return Labelled.model_validate(
        {
            "id": name,
            "called_at": "2026-11-18T14:05:00+08:00",
            "turns": [{"speaker": "Robot", "text": "您好"}, {"speaker": "Contact", "text": f"这里是{name}。"}],
            "is_interested": interest,
            "next_follow_time": when,
            **more,
        }
    )


def answer(interest: int, when: str | None, evidence: str = "", **more: Any) -> str:
    return json.dumps(
        {"leads_remark": "备注", "is_interested": interest, "next_follow_time": when, "evidence": evidence, **more}
    )


async def test_every_kind_of_agreement_and_disagreement_is_counted() -> None:
    agreed = "2026-11-20 15:00"
    cases = {
        "exact": (said("exact", 1, agreed), answer(1, "2026-11-20 15:00:00")),
        "near": (said("near", 1, agreed), answer(1, "周五上午十点")),
        "far": (said("far", 1, agreed), answer(1, "2026-11-27 15:00:00", "这里是far。")),
        "missed": (said("missed", 1, agreed), answer(1, None)),
        "invented": (said("invented", 0, None), answer(0, "明天上午")),
        "none": (said("none", 2, None), answer(2, None)),
        "turned": (said("turned", 2, None), answer(1, None)),
        "broken": (said("broken", 0, None), "抱歉"),
        "refused": (said("refused", 0, None), PermanentError("DashScope", "completion", "DataInspectionFailed")),
    }
    model = cast(AnalysisModel, Scripted({f"这里是{name}。": made for name, (_, made) in cases.items()}))
    judged: list[None] = []
    report = await evaluate(model, [case for case, _ in cases.values()], advance=lambda: judged.append(None))
    assert len(judged) == len(cases)
    assert report["interest"]["confusion"] == {
        "0": {"0": 1, "1": 0, "2": 0, "invalid": 1, "error": 1},
        "1": {"0": 0, "1": 4, "2": 0, "invalid": 0, "error": 0},
        "2": {"0": 0, "1": 1, "2": 1, "invalid": 0, "error": 0},
    }
    # An invalid answer is a wrong one; a call that never was answered says nothing about the prompt.
    assert (report["interest"]["right"], report["interest"]["of"], report["interest"]["accuracy"]) == (6, 8, 0.75)
    assert report["next_time"] == {
        "accuracy": 0.4286,
        "exact": 1,
        "within_a_day": 1,
        "wrong": 1,
        "missed": 1,
        "invented": 1,
        "rightly_none": 2,
    }
    assert [one["id"] for one in report["disagreements"]] == ["near", "far", "missed", "invented", "turned"]
    assert report["disagreements"][1] == {
        "id": "far",
        "expected": {"is_interested": 1, "next_follow_time": agreed, "do_not_call": "", "wrong_number": False},
        "got": {
            "is_interested": 1,
            "next_follow_time": "2026-11-27 15:00",
            "do_not_call": "",
            "wrong_number": False,
            "leads_remark": "备注",
        },
        "next_time": "wrong",
        "evidence": "这里是far。",
        "note": "",
    }
    assert report["invalid"] == ["broken"]
    assert report["unreadable"] == {"share": 0.125, "tokens": 110}
    assert report["errors"] == [{"id": "refused", "code": "DataInspectionFailed"}]
    assert (report["calls"], report["input_tokens"], report["output_tokens"]) == (9, 800, 80)


async def test_refusals_and_wrong_numbers_have_their_precision_and_recall() -> None:
    cases: dict[str, tuple[bool, dict[str, Any]]] = {
        "found": (True, {"do_not_call": True, "do_not_call_evidence": "这里是found。"}),
        "again": (True, {"do_not_call": "这里是again"}),
        "missed": (True, {"do_not_call": False}),
        "unproven": (True, {"do_not_call": True, "do_not_call_evidence": "别再打来。"}),
        "invalid": (True, {"is_interested": 9}),
        "invented": (False, {"do_not_call": True, "evidence": "这里是invented。"}),
        "rightly": (False, {"do_not_call": False, "wrong_number": True}),
        "wrong": (False, {"wrong_number": "true"}),
        "old": (False, {}),
    }
    labelled = [
        said(name, 2, None, do_not_call=f"这里是{name}。" if refuses else "", wrong_number=name in ("wrong", "old"))
        for name, (refuses, _) in cases.items()
    ]
    answers = {f"这里是{name}。": answer(2, None, **fields) for name, (_, fields) in cases.items()}
    report = await evaluate(cast(AnalysisModel, Scripted(answers)), labelled)
    # An invalid answer has missed what is there.
    found = {"right": 2, "invented": 1, "missed": 3}
    assert report["do_not_call"] == {"precision": 0.6667, "recall": 0.4, **found, "unproven": 1}
    found = {"right": 1, "invented": 1, "missed": 1}
    assert report["wrong_number"] == {"precision": 0.5, "recall": 0.5, **found}
    assert {one["id"] for one in report["disagreements"]} == {"missed", "unproven", "invented", "rightly", "old"}
    assert report["interest"]["right"] == 8


async def test_the_shipped_set_goes_through_the_configured_model(settings: None, simulator: Simulators) -> None:
    result = await command("--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["model"], report["prompt_version"]) == ("qwen-plus", PROMPT_VERSION)
    assert (
        report["conversations"]
        == report["judged"]
        == report["calls"]
        == len(SET)
        == simulator.stats.report(simulator.world)["model_calls"]
    )
    assert not report["invalid"] and not report["errors"]
    assert report["input_tokens"] > 50 * len(SET) and report["output_tokens"] > len(SET)
    confusion = report["interest"]["confusion"]
    assert sum(sum(row.values()) for row in confusion.values()) == len(SET)
    assert sum(confusion[label][label] for label in "012") == report["interest"]["right"]
    # The simulated model judges by simple rules, made for other conversations: far from perfect, far from blind.
    assert 0.5 < report["interest"]["accuracy"] < 1
    for name in ("do_not_call", "wrong_number"):
        found = report[name]
        assert found["right"] + found["missed"] == sum(bool(getattr(labelled, name)) for labelled in SET)
        assert 0 < found["recall"] < 1 and 0 < found["precision"] < 1, name
    assert report["do_not_call"]["unproven"] == 0
    times = report["next_time"]
    assert times["exact"] + times["within_a_day"] + times["wrong"] + times["missed"] == sum(
        labelled.next_follow_time is not None for labelled in SET
    )
    assert times["exact"] > 20
    assert report["endpoint"] == simulator.url
    wrong = sum(one["expected"]["is_interested"] != one["got"]["is_interested"] for one in report["disagreements"])
    assert wrong == len(SET) - report["interest"]["right"]


async def test_the_report_for_a_person_names_disagreements_and_cost(settings: None, simulator: Simulators) -> None:
    result = await command("--limit", "30")
    assert result.exit_code == 0, result.stderr
    assert "30 conversations" in result.stdout and "interest: " in result.stdout
    assert re.search(r"1 interested +│", result.stdout)
    assert re.search(r"do not call: precision .*%, recall .*%: \d+ right", result.stdout)
    assert (
        f"at {simulator.url}, prompt" in result.stdout
        and "says nothing about judgements of real calls." in result.stdout
    )
    assert "disagreements" in result.stdout and "cost: 30 calls" in result.stdout
    assert simulator.stats.report(simulator.world)["model_calls"] == 30


async def test_a_limit_takes_of_every_class(settings: None) -> None:
    report = json.loads((await command("--limit", "9", "--json")).stdout)
    assert sorted(sum(row.values()) for row in report["interest"]["confusion"].values()) == [3, 3, 3]


async def test_invalid_answers_and_refusals_are_reported_and_cost_what_they_cost(
    settings: None, simulator: Simulators
) -> None:
    simulator.set_faults(
        Fault(target="model", kind="invalid_json", count=2), Fault(target="model", kind="content_filter", count=3)
    )
    result = await command("--limit", "12", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (len(report["invalid"]), len(report["errors"]), report["judged"]) == (2, 3, 7)
    assert {error["code"] for error in report["errors"]} == {"DataInspectionFailed"}
    assert report["interest"]["of"] == 9


async def test_a_model_that_refuses_everything_is_a_failure(settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "wrong")
    result = await command("--limit", "3", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["judged"] == 0
    assert "nothing was judged: InvalidApiKey" in result.stderr


async def test_a_missing_setting_is_one_line_and_exit_code_2(settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASHSCOPE_API_KEY")
    result = await command()
    assert result.exit_code == 2
    assert "DASHSCOPE_API_KEY is not set" in result.stderr


def test_a_day_is_counted_apart_from_the_product() -> None:
    assert _day("下周一上午", date(2026, 6, 20)) == date(2026, 6, 22)
    assert _day("周四下午五点", date(2026, 8, 10)) == date(2026, 8, 13)
    assert datetime(2026, 8, 13).weekday() == 3
