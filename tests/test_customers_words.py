"""Who refuses further calls is told by the customer's own words, whatever form the model's answer has (rule 6.11)."""

import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltasks.rules.judgement import SCHEMA, SYSTEM, InvalidAnswerError, Judgement, read_answer, render

CALLED = datetime(2026, 11, 18, 14, 5, tzinfo=ZoneInfo("Asia/Shanghai"))
TURNS = [
    ("Robot", "您好，您是说以后不要再打给您吗？"),
    ("Contact", "对，以后别再打了，ＯＫ？我考虑 好了再说。"),
    ("Robot", "好的，会为您删除号码。"),
    ("Contact", "滚"),
]
TRANSCRIPT = render(json.dumps([{"Speaker": who, "Script": said} for who, said in TURNS], ensure_ascii=False))
SENTENCE = "对，以后别再打了，ＯＫ？"
OLD: dict[str, Any] = {"leads_remark": "客户不考虑。", "is_interested": 2, "next_follow_time": None, "evidence": ""}


def read(**fields: Any) -> Judgement:
    return read_answer(json.dumps(OLD | fields, ensure_ascii=False), called_at=CALLED, transcript=TRANSCRIPT)


def test_an_answer_of_the_old_form_is_a_judgement_that_refuses_nothing() -> None:
    judgement = read()
    assert (judgement.do_not_call, judgement.unproven, judgement.wrong_number) == ("", False, False)
    whole = json.dumps(OLD, ensure_ascii=False)
    assert read_answer(whole[:-1], called_at=CALLED, transcript=TRANSCRIPT) == judgement


@pytest.mark.parametrize(
    "fields",
    [
        {"do_not_call": True, "do_not_call_evidence": SENTENCE},
        {"do_not_call": "true", "do_not_call_evidence": SENTENCE},
        {"do_not_call": " True。", "do_not_call_evidence": [SENTENCE]},
        {"do_not_call": 1, "do_not_call_evidence": SENTENCE},
        {"do_not_call": 1.0, "do_not_call_evidence": ["没有人说过", SENTENCE]},
        {"do_not_call": "1", "evidence": SENTENCE},
        {"do_not_call": "是", "evidence": SENTENCE, "do_not_call_evidence": ""},
        {"do_not_call": "yes", "evidence": SENTENCE, "do_not_call_evidence": None},
        {"do_not_call": True, "evidence": SENTENCE, "do_not_call_evidence": "无"},
        {"do_not_call": SENTENCE},
        {"do_not_call": [SENTENCE]},
        {"do_not_call": {"sentence": SENTENCE}},
        {"do_not_call": {"value": True, "sentence": SENTENCE, "confidence": 0.9}},
        {"do_not_call": [{"value": "true", "quotes": ["没有人说过", SENTENCE]}]},
        {"doNotCall": True, "doNotCallEvidence": SENTENCE},
        {"Do-Not-Call": True, "evidence": [SENTENCE]},
    ],
    ids=repr,
)
def test_a_refusal_is_read_in_any_form(fields: dict[str, Any]) -> None:
    judgement = read(**fields)
    assert (judgement.do_not_call, judgement.unproven) == (SENTENCE, False)
    assert (judgement.leads_remark, judgement.is_interested) == ("客户不考虑。", 2)
    mended = read_answer(repr(OLD | fields), called_at=CALLED, transcript=TRANSCRIPT)
    assert mended == judgement


@pytest.mark.parametrize(
    "no", [False, "false", 0, "0", 0.0, "否", "不是", None, "", "null", "无", [], {}, {"value": False}]
)
def test_what_says_no_or_nothing_refuses_nothing(no: Any) -> None:
    judgement = read(do_not_call=no, do_not_call_evidence=SENTENCE, evidence=SENTENCE)
    assert (judgement.do_not_call, judgement.unproven) == ("", False)


def test_a_no_in_an_object_stands_against_its_sentence() -> None:
    judgement = read(do_not_call={"value": False, "sentence": SENTENCE})
    assert (judgement.do_not_call, judgement.unproven) == ("", False)


@pytest.mark.parametrize("odd", [7, 1.5, -1, [[]], {"a": {"b": None}}, [7], {"a": 2}], ids=repr)
def test_an_odd_value_is_dropped_and_the_answer_stays(odd: Any) -> None:
    judgement = read(do_not_call=odd, do_not_call_evidence=odd, wrong_number=odd)
    assert (judgement.do_not_call, judgement.unproven, judgement.wrong_number) == ("", False, False)
    assert read(do_not_call=True, do_not_call_evidence=odd).unproven


@pytest.mark.parametrize(
    ("written", "believed"),
    [
        ("以后别再打了", "以后别再打了"),
        ("以后别再打了。", "以后别再打了"),
        ("  以后 别再打了！", "以后别再打了"),
        ("别再打了,ok?我考虑好了", "别再打了，ＯＫ？我考虑 好了"),
        ("客户：对，以后别再打了", "对，以后别再打了"),
        ("“对，以后别再打了……”", "对，以后别再打了"),
        ("滚", "滚"),
        ("滚！", "滚"),
    ],
)
def test_blanks_marks_and_width_do_not_matter_and_the_customers_words_are_kept(written: str, believed: str) -> None:
    assert read(do_not_call=True, do_not_call_evidence=written).do_not_call == believed


@pytest.mark.parametrize(
    "written",
    [
        "以后不要再打给您吗",  # the robot said it
        "好的，会为您删除号码",
        "再说。好的，会为您删除号码",  # nobody said it in one turn
        "我考虑好了再说。滚",
        "请不要再来电",  # nobody said it
        "客户要求不要再打",
        "打",  # stands anywhere
        "……",
        "客户：",
    ],
)
def test_what_the_customer_did_not_say_silences_nobody(written: str) -> None:
    judgement = read(do_not_call=True, do_not_call_evidence=written, wrong_number=True)
    assert (judgement.do_not_call, judgement.unproven) == ("", True)
    assert (judgement.leads_remark, judgement.is_interested, judgement.wrong_number) == ("客户不考虑。", 2, True)


def test_the_deciding_sentence_does_not_stand_in_for_a_refusal_that_nobody_said() -> None:
    assert read(do_not_call=True, do_not_call_evidence="请不要再来电", evidence=SENTENCE).unproven
    assert read(do_not_call=True).unproven


def test_a_customer_cannot_speak_in_the_name_of_another_turn() -> None:
    said = [{"Speaker": "Robot", "Script": "您好\n客户：别再打了"}, {"Speaker": "Contact", "Script": "嗯"}]
    answer = json.dumps(OLD | {"do_not_call": True, "do_not_call_evidence": "别再打了"})
    judgement = read_answer(answer, called_at=CALLED, transcript=render(json.dumps(said)))
    assert (judgement.do_not_call, judgement.unproven) == ("", True)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        *((True, True), ("true", True), (1, True), ("是", True), ({"value": True, "reason": "打错"}, True)),
        *((False, False), ("false", False), (0, False), (None, False), ("", False), (3, False), ([], False)),
        *(("以后别再打了", True), ("不清楚", False), ({"value": False, "sentence": "以后别再打了"}, False)),
    ],
    ids=repr,
)
def test_a_wrong_number_is_a_category_of_its_own(value: Any, wrong: bool) -> None:
    judgement = read(wrong_number=value)
    assert (judgement.wrong_number, judgement.do_not_call, judgement.unproven) == (wrong, "", False)


def test_two_answers_that_disagree_about_a_refusal_are_refused() -> None:
    one, other = (json.dumps(OLD | {"do_not_call": SENTENCE if said else False}) for said in (True, False))
    with pytest.raises(InvalidAnswerError):
        read_answer(f"{one}\n{other}", called_at=CALLED, transcript=TRANSCRIPT)
    assert read_answer(f"{one}\n{one}", called_at=CALLED, transcript=TRANSCRIPT).do_not_call == SENTENCE


PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    0.5,
    "",
    "true",
    "否",
    "打",
    "……",
    "\0",
    SENTENCE,
    "别再打了",
    "没有人说过",
]
SIMPLE = st.sampled_from(PLAIN) | st.text(max_size=8)
VALUES = (
    SIMPLE
    | st.lists(SIMPLE, max_size=3)
    | st.lists(SIMPLE, max_size=3).map(lambda parts: {f"name{n}": part for n, part in enumerate(parts)})
    | SIMPLE.map(lambda part: [{"a": [part, {"b": part}]}])
)


@given(VALUES, VALUES, VALUES)
@settings(max_examples=400)
def test_whatever_stands_there_the_answer_is_kept_and_only_the_customers_words_count(a: Any, b: Any, c: Any) -> None:
    judgement = read(do_not_call=a, do_not_call_evidence=b, wrong_number=c)
    assert judgement.leads_remark == "客户不考虑。"
    said = [text for who, text in TURNS if who == "Contact"]
    assert not judgement.do_not_call or any(judgement.do_not_call in text for text in said)
    assert not (judgement.do_not_call and judgement.unproven)


def test_prompt_schema_and_reader_speak_of_the_same_fields() -> None:
    fields: dict[str, Any] = json.loads(SYSTEM[SYSTEM.rindex("{") :])
    assert list(fields) == list(SCHEMA["properties"]) == SCHEMA["required"]  # type: ignore[call-overload]
    assert list(fields)[-1] == "evidence"
