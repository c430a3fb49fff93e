"""Answers of models as people report them: what is read, what is refused, and that nothing is made up (rule 6.2)."""

import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calltasks.rules.answers import MENDED_CHARACTERS
from calltasks.rules.judgement import SYSTEM, InvalidAnswerError, Judgement, read_answer

CALLED = datetime(2026, 11, 18, 14, 5, tzinfo=ZoneInfo("Asia/Shanghai"))
SAID = "我周六下午三点过去看看"
TRANSCRIPT = f"机器人：您好\n客户：{SAID}"
REMARK = "客户想看车，约好周六到店。"
TIME = "2026-11-21 15:00:00"
WHOLE = Judgement(
    leads_remark=REMARK,
    is_interested=1,
    next_follow_time=datetime(2026, 11, 21, 15, tzinfo=ZoneInfo("Asia/Shanghai")),
    evidence=SAID,
)
FIELDS: dict[str, Any] = {"leads_remark": REMARK, "is_interested": 1, "next_follow_time": TIME, "evidence": SAID}
ANSWER = json.dumps(FIELDS, ensure_ascii=False)
OTHER = json.dumps({"leads_remark": "客户不考虑。", "is_interested": 2}, ensure_ascii=False)


def read(text: str) -> Judgement:
    return read_answer(text, called_at=CALLED, transcript=TRANSCRIPT)


def refused(text: str) -> bool:
    try:
        read(text)
    except InvalidAnswerError:
        return True
    return False


def with_(**fields: Any) -> str:
    return json.dumps(FIELDS | fields, ensure_ascii=False)


def without(*names: str) -> str:
    return json.dumps({name: value for name, value in FIELDS.items() if name not in names}, ensure_ascii=False)


def remark(text: str) -> str:
    """The answer with this put between the marks of its remark as it is, escaped or not."""
    return ANSWER.replace(REMARK, text)


def between(marks: str) -> str:
    """The answer in these opening and closing marks."""
    parts = ANSWER.split('"')
    return "".join(part + marks[n % 2] for n, part in enumerate(parts[:-1])) + parts[-1]


# --- what a person reads --------------------------------------------------------------------------------------------

WRAPPED = {
    "as asked for": ANSWER,
    "blanks around": f"\n\n  {ANSWER} \t\n",
    "on several lines": json.dumps(FIELDS, ensure_ascii=False, indent=2),
    "escaped Chinese": json.dumps(FIELDS),
    "a fence": f"```json\n{ANSWER}\n```",
    "a fence without a language": f"```\n{ANSWER}\n```",
    "a fence on one line": f"```json {ANSWER} ```",
    "a fence without blanks": f"```json{ANSWER}```",
    "a fence of tildes": f"~~~json\n{ANSWER}\n~~~",
    "a fence that does not end": f"```json\n{ANSWER}",
    "a fence within prose": f"以下是结果：\n```json\n{ANSWER}\n```\n如需调整请告知。",
    "json before it": f"json\n{ANSWER}",
    "a backquote on each side": f"`{ANSWER}`",
    "prose before it": f"好的，根据通话记录，我的判断如下：{ANSWER}",
    "prose after it": f"{ANSWER}\n\n说明：客户主动约定了到店时间。",
    "prose with braces": f"按照 {{JSON}} 格式输出：{ANSWER} 以上 {{仅供参考}}。",
    "a thought before it": f"<think>客户说周六来，应为 1。</think>\n{ANSWER}",
    "an empty thought": f"<think>\n\n</think>\n\n{ANSWER}",
    "a thought after it": f"{ANSWER}\n<think>检查一遍，没有问题。</think>",
    "a thought with another answer in it": f"<think>也许是 {OTHER}？不对。</think>{ANSWER}",
    "a thought within a thought": f"<think>一<think>{OTHER}</think>{OTHER}</think>{ANSWER}",
    "a thought whose beginning is missing": f"客户说周六来。{OTHER}\n</think>\n{ANSWER}",
    "a thought by another name": f"<Thinking mode='x'>{OTHER}</Thinking>{ANSWER}",
    "reasoning": f"<reasoning>{OTHER}</reasoning>{ANSWER}",
    "◁think▷": f"◁think▷{OTHER}◁/think▷{ANSWER}",
    "[THINK]": f"[THINK]{OTHER}[/THINK]{ANSWER}",
    "<|begin_of_thought|>": f"<|begin_of_thought|>{OTHER}<|end_of_thought|>{ANSWER}",
    "tags around it": f"<answer>{ANSWER}</answer>",
    "full-width tags": f"＜think＞{OTHER}＜／think＞{ANSWER}",
    "escaped tags": f"&lt;think&gt;{OTHER}&lt;/think&gt;{ANSWER}",
    "a tag with a prefix": f"<seed:think>{OTHER}</seed:think>{ANSWER}",
    "inner thoughts": f"<inner_thoughts>{OTHER}</inner_thoughts>{ANSWER}",
    "a channel": f"<|channel|>analysis<|message|>{OTHER}<|end|><|channel|>final<|message|>{ANSWER}",
    "a thought in a fence of its own": f"```thinking\n{OTHER}\n```\n{ANSWER}",
    "a thought in a field": f'{{"reasoning": {OTHER}, "answer": {ANSWER}}}',
    "a thought and a fence": f"<think>嗯</think>\n\n```json\n{ANSWER}\n```",
    "bold": f"**结果**：**{ANSWER}**",
    "a byte order mark": f"\ufeff{ANSWER}",
    "invisible characters": f"\u200b{ANSWER}\u2060\0",
    "an end mark of the model": f"{ANSWER}<|im_end|>",
    "twice the same": f"{ANSWER}\n{ANSWER}",
    "an array of one": f"[{ANSWER}]",
    "an array of two that are the same": f"[{ANSWER}, {ANSWER}]",
    "within result": f'{{"result": {ANSWER}}}',
    "within an array within data": f'{{"code": 0, "data": [{ANSWER}]}}',
    "within text within output": json.dumps({"output": ANSWER}),
    "a JSON text of the JSON": json.dumps(ANSWER),
    "every mark escaped": ANSWER.replace('"', '\\"'),
    "double braces": f"{{{ANSWER}}}",
    "other order": json.dumps(dict(reversed(FIELDS.items())), ensure_ascii=False),
    "more fields": with_(confidence=0.9, reason="客户约了时间", tags=["看车", {"a": None}]),
    "capital names": ANSWER.replace("leads_remark", "Leads_Remark").replace("is_interested", "IS_INTERESTED"),
    "camel case": ANSWER.replace("leads_remark", "leadsRemark").replace("next_follow_time", "nextFollowTime"),
    "blanks in names": ANSWER.replace("is_interested", " is_interested ").replace("leads_remark", "leads remark"),
    "a name twice with one value": ANSWER[:-1] + ', "is_interested": 1}',
    "interest as text": with_(is_interested="1"),
    "interest as text with blanks": with_(is_interested=" 1 "),
    "interest in full width": with_(is_interested="１"),
    "interest with a point": with_(is_interested=1.0),
    "interest as text with a point": with_(is_interested="1.0"),
    "evidence in a list": with_(evidence=[SAID]),
    "evidence in a list after what nobody said": with_(evidence=["没有人说过", SAID, 3]),
}
MENDED = {
    "a comma at the end": ANSWER[:-1] + ",}",
    "a comma at the end of a line": json.dumps(FIELDS, ensure_ascii=False, indent=1)[:-2] + ",\n}",
    "single marks": repr(FIELDS),
    "Python": repr(FIELDS | {"extra": None, "certain": True}),
    "Chinese marks": between("“”"),
    "Chinese marks around values": f'{{"leads_remark": “{REMARK}”, "is_interested": 1, "next_follow_time": “{TIME}”, '
    f'"evidence": “{SAID}”}}',
    "full-width marks": ANSWER.replace('"', "＂"),
    "corner marks": between("「」").replace(": ", "：").replace(", ", "，"),
    "backquotes": ANSWER.replace('"', "`"),
    "full-width colons": ANSWER.replace('": ', '"：'),
    "full-width commas": ANSWER.replace(', "', '，"'),
    "full-width everything": ANSWER.replace('": ', '"：').replace(', "', '，"').replace("{", "｛").replace("}", "｝"),
    "semicolons": ANSWER.replace(', "', '; "'),
    "names without marks": ANSWER.replace('"leads_remark"', "leads_remark").replace('"is_interested"', "is_interested"),
    "no commas": json.dumps(FIELDS, ensure_ascii=False, indent=1).replace(",\n", "\n"),
    "comments": json.dumps(FIELDS, ensure_ascii=False, indent=1).replace("1,\n", "1, // 有兴趣\n /* 时间 */ # 几点\n"),
    "a null of Python": repr(FIELDS | {"extra": None}).replace("'extra': None", '"extra": None'),
    "more names in Chinese": f"{str(FIELDS)[:-1]}, '备注': 'x', 说明: '约了时间', '预算': 20}}",
    "interest as text, in single marks": repr(FIELDS | {"is_interested": "1"}),
    "a fence and a comma at the end": f"```json\n{ANSWER[:-1]},\n}}\n```",
    "prose and single marks": f"结果：{FIELDS!r}。",
    "a thought and single marks": f"<think>{OTHER}</think>{FIELDS!r}",
    "single marks within result": repr({"result": FIELDS}),
    "single marks in an array": repr([FIELDS]),
    "a list in single marks": repr(FIELDS | {"evidence": [SAID]}),
    "a value that opens with one mark and ends with another": ANSWER.replace(f'"{REMARK}"', f'"{REMARK}”'),
    "a value that opens with a Chinese mark": ANSWER.replace(f'"{REMARK}"', f'“{REMARK}"'),
    "three marks": ANSWER.replace(f'"{REMARK}"', f'"""{REMARK}"""'),
    "a name with one mark": ANSWER.replace('"is_interested"', 'is_interested"'),
    "two commas": ANSWER.replace(', "is', ',, "is'),
    "a comma first": "{," + ANSWER[1:],
    "dots at the end": ANSWER[:-1] + ", ...}",
    "no first brace": ANSWER[1:],
    "no braces": ANSWER[1:-1],
    "no last brace": ANSWER[:-1],
    "no last brace within a fence": f"```json\n{ANSWER[:-1]}\n```",
    "a brace too many": ANSWER + "}",
    "nothing at an optional name": f'{ANSWER[:-1]}, "extra": }}',
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in (WRAPPED | MENDED).items()])
def test_what_a_person_reads_is_read(text: str) -> None:
    assert read(text) == WHOLE


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ('客户说"周六来"，想看车。', '客户说"周六来"，想看车。'),
        ('客户问"多少钱", "有现车吗"，想看车。', '客户问"多少钱", "有现车吗"，想看车。'),
        ('"很想看车"，约了周六。', '"很想看车"，约了周六。'),
        ('约了周六，"一定来"', '约了周六，"一定来"'),
        ('客户说\\"周六来\\"，想"看车"。', '客户说"周六来"，想"看车"。'),
        ("客户说“周六来”：想看车，{预算} 20 万。", "客户说“周六来”：想看车，{预算} 20 万。"),
        ("客户想看车。\n约了周六。", "客户想看车。\n约了周六。"),
        ("客户想看车。\t约了周六。", "客户想看车。\t约了周六。"),
        ("客户想看车。\\n约了周六。", "客户想看车。\n约了周六。"),
        ("客户\\'想看车\\'。", "客户'想看车'。"),
        ('客户说"It\'s fine"。', '客户说"It\'s fine"。'),
        ("C:\\\\车型 \\_1", "C:\\车型 _1"),
        ('客户"很\\u60f3"看车\\ud83d\\ude00。', '客户"很想"看车😀。'),
        ("客户想看车😀，约了周六👨‍👩‍👧。", "客户想看车😀，约了周六👨‍👩‍👧。"),
    ],
)
def test_marks_and_line_breaks_in_a_remark_are_kept(between: str, expected: str) -> None:
    assert read(remark(between)).leads_remark == expected


@pytest.mark.parametrize("odd", [None, 5, 1.5, True, [], {}, [1], {"a": "b"}, "", "无", "null", "待定", "……"])
def test_an_odd_optional_field_is_dropped(odd: Any) -> None:
    judgement = read(with_(next_follow_time=odd, evidence=odd))
    assert (judgement.next_follow_time, judgement.evidence) == (None, "")
    assert (judgement.leads_remark, judgement.is_interested) == (REMARK, 1)
    mended = read(repr(FIELDS | {"next_follow_time": odd, "evidence": odd}))
    assert mended == judgement


def test_optional_fields_may_be_missing() -> None:
    assert read(without("next_follow_time", "evidence")).next_follow_time is None
    assert read(without("evidence")).evidence == ""


# --- what nobody can be sure of -------------------------------------------------------------------------------------

REFUSED = {
    "nothing": "",
    "blanks": " \n",
    "null": "null",
    "a number": "1",
    "prose": "客户有兴趣，约好周六到店。",
    "an empty object": "{}",
    "an empty array": "[]",
    "an empty fence": "```json\n```",
    "other fields": '{"remark": "客户想看车。", "interest": 1}',
    "an error of a gateway": '{"error": {"code": "x", "message": "leads_remark"}}',
    "a page": "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
    "no interest": without("is_interested"),
    "no remark": without("leads_remark"),
    "cut in the remark": ANSWER[:30],
    "cut in the middle": ANSWER[: len(ANSWER) // 2],
    "cut in the evidence": ANSWER[:-4],
    "cut after the interest": ANSWER[: ANSWER.index(', "next')],
    "cut after the time": ANSWER[: ANSWER.index(', "evidence')],
    "no last brace, single marks, cut": repr(FIELDS)[:-3],
    "cut within a fence": f"```json\n{ANSWER[:40]}\n```",
    "cut with braces in the remark": '{"is_interested": 1, "leads_remark": "客户说{好}',
    "cut with marks and braces in the remark": '{"is_interested": 1, "leads_remark": "客户说{"好"}',
    "cut after a mark": '{"is_interested": 1, "leads_remark": "客户说"好"',
    "cut in a further name": repr(FIELDS)[:-1] + ", 'extra'",
    "only a thought": f"<think>{ANSWER}</think>",
    "a thought that does not end": f"<think>{ANSWER}",
    "a thought that does not end after it": f"{ANSWER}<think>不对，应当是",
    "a thought that ends once too few": f"<think><think>{OTHER}</think>{ANSWER}",
    "only a thought whose beginning is missing": f"{ANSWER}</think>",
    "a thought by another name that does not end": f"<thinking>{ANSWER}",
    "only a scratchpad": f"<scratchpad>{ANSWER}</scratchpad>",
    "only a channel of thoughts": f"<|channel|>analysis<|message|>{ANSWER}",
    "only a fence of thoughts": f"```thinking\n{ANSWER}\n```",
    "only a field of thoughts": f'{{"think": {ANSWER}}}',
    "a thought in the remark": with_(leads_remark="\\u003cthink>客户想看车").replace("\\\\u", "\\u"),
    "two that disagree": f"{ANSWER}\n{OTHER}",
    "two that disagree in the remark": f"{ANSWER}\n{with_(leads_remark='客户约了周六。')}",
    "two that disagree, one to be mended": f"{FIELDS!r}\n{OTHER}",
    "two that disagree in an array": f"[{ANSWER}, {OTHER}]",
    "two that disagree in an object": f'{{"a": {ANSWER}, "b": {OTHER}}}',
    "one within another": ANSWER[:-1] + f', "alternative": {OTHER}}}',
    "one whole and one in part": f'{ANSWER}{{"is_interested": 1}}',
    "a name twice": ANSWER[:-1] + ', "is_interested": 2}',
    "a name twice as number and truth": ANSWER[:-1] + ', "is_interested": true}',
    "a name twice in another case": ANSWER[:-1] + ', "Is_Interested": 0}',
    "a name twice in single marks": repr(FIELDS)[:-1] + ", 'is_interested': 2}",
    "the remark twice": ANSWER[:-1] + ', "leads_remark": "客户不想看车。"}',
    "an array of values": json.dumps(list(FIELDS.values()), ensure_ascii=False),
    "the prompt's own example": SYSTEM[SYSTEM.rindex("{") :],
    "the prompt": SYSTEM,
    "the example, then the answer": SYSTEM[SYSTEM.rindex("{") :] + ANSWER,
}
WRONG_INTERESTS: list[Any] = [
    None, 3, -1, 1.5, True, False, "", "maybe", "有", "1 或 2", "1,2", "true", "01", "10", "-1", [1], {},
]  # fmt: skip
WRONG_REMARKS: list[Any] = [
    *(None, 12, True, ["客户想看车。"], {"text": "客户想看车。"}),
    *(
        "",
        "  ",
        "……",
        "...",
        "。",
        "—",
        "null",
        "None",
        "无",
        "N/A",
        "暂无",
        "string",
        "<string>",
        "{字符串}",
    ),
    *("长" * 2001, "Error: rate limit exceeded", "Traceback (most recent call last)", "HTTP 502", "Bad Gateway"),
    *("解析失败，请重试", "系统繁忙", "错误：输出超长", "<html>502</html>", "抱歉，我无法完成这个任务。"),
    *("作为一个AI语言模型，我不能判断。", "I'm sorry, but I can't help with that.", "请输出 is_interested 为 1"),
    "用一到三句中文概括客户的情况、需求和下一步建议，不超过 200 字，不要写电话号码。",
]


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in REFUSED.items()])
def test_what_would_have_to_be_guessed_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize("value", WRONG_INTERESTS, ids=repr)
def test_an_odd_interest_refuses_the_answer(value: Any) -> None:
    assert refused(with_(is_interested=value))
    assert refused(repr(FIELDS | {"is_interested": value}))


@pytest.mark.parametrize("value", WRONG_REMARKS, ids=lambda value: repr(value)[:30])
def test_what_is_no_remark_refuses_the_answer(value: Any) -> None:
    assert refused(with_(leads_remark=value))
    assert refused(repr(FIELDS | {"leads_remark": value}))


SOUND_LIKE_IT = [
    "无意向，已购车",
    "空号，非本人",
    "错误号码，非本人。",
    "异常挂断，未沟通。",
    "客户抱歉地说已买车",
    "网络异常，客户听不清",
]


@pytest.mark.parametrize("value", [*SOUND_LIKE_IT, "客户说网站 error 了", "长" * 2000], ids=lambda value: value[:10])
def test_a_remark_may_sound_like_one(value: str) -> None:
    assert read(with_(leads_remark=value)).leads_remark == value


HOSTILE = [
    *("[" * 40_000, '{"a":' * 9_000, "9" * 40_000, '{"is_interested":' + "1" * 5000 + "}", "{" * 40_000, "{a:" * 3_000),
    *('{"leads_remark": "' + "}" * 9_000, '{"leads_remark": "' + '", "a": ' * 1_200, "{leads_remark: " + " " * 9_900),
    *("<think>" * 7_000, "</think>" * 6_000, '{"leads_remark": ' + "//" * 4_900, '{"leads_remark": "' + "\\" * 9_900),
    *("{'leads_remark': '" + "', '" * 2_400, with_(leads_remark="-" * 2000, is_interested=9), '{"a": "{b: 1' * 500),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
@pytest.mark.timeout(20)
def test_hostile_answers_are_refused_in_good_time(text: str) -> None:
    assert refused(text)


def test_a_long_answer_is_read_as_json_and_not_mended() -> None:
    padding = "x" * MENDED_CHARACTERS
    assert read(with_(extra=padding)) == WHOLE
    assert refused(repr(FIELDS | {"extra": padding}))


# --- whatever the answer --------------------------------------------------------------------------------------------

REMARKS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff\u200b\u2060"), min_size=1, max_size=60)
TIMES = st.none() | st.sampled_from([TIME, "周六下午三点", "待定", ""])
EVIDENCE = st.none() | st.sampled_from([SAID, "没有人说过", ""])
REFUSING: list[dict[str, Any]] = [
    {},
    {"do_not_call_evidence": SAID, "do_not_call": True, "wrong_number": True},
    {"do_not_call": SAID},
]
"""What the prompt asks for before the last of the old fields: an answer that is cut off there is known to be."""
FIELDS_OF_OLD = st.fixed_dictionaries(
    {"leads_remark": REMARKS, "is_interested": st.sampled_from([0, 1, 2])},
    optional={"next_follow_time": TIMES, "evidence": EVIDENCE, "extra": st.sampled_from([1, "…", [1], {"a": "}"}])},
).flatmap(lambda fields: st.permutations(list(fields.items())).map(dict))
ANSWERS = st.tuples(st.sampled_from(REFUSING), FIELDS_OF_OLD).map(lambda both: both[0] | both[1])
MARKS = [*"{}\"':,：“”\\\n[] 1", "leads_remark", "is_interested", "evidence", "客户", "null", "//", "/*", "*/"]
PIECES = st.sampled_from([*MARKS, "<think>", "</think>", "```", '{"leads_remark": "客户想看车。", "is_interested": 1}'])


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(st.characters(codec=None), max_size=60))
@settings(max_examples=500)
def test_any_text_is_a_judgement_or_the_one_error(text: str) -> None:
    try:
        judgement = read(text)
    except InvalidAnswerError as error:
        assert not str(error)
    else:
        assert type(judgement.is_interested) is int and judgement.is_interested in (0, 1, 2)
        assert judgement.leads_remark.strip() and judgement.evidence in TRANSCRIPT


def whole(fields: dict[str, Any]) -> Judgement:
    """What an answer says, if it says something."""
    text = json.dumps(fields, ensure_ascii=False)
    assume(not refused(text))
    return read(text)


@given(ANSWERS, st.sampled_from(sorted(WRAPPED)))
@settings(max_examples=300)
def test_a_valid_answer_is_read_alike_whatever_it_is_wrapped_in(fields: dict[str, Any], name: str) -> None:
    expected, text = whole(fields), json.dumps(fields, ensure_ascii=False)
    wrapping = WRAPPED[name]
    assume(ANSWER in wrapping)
    assert read(wrapping.replace(ANSWER, text)) == expected


@given(ANSWERS, st.data())
@settings(max_examples=600)
def test_what_is_cut_off_is_refused_or_says_the_same(fields: dict[str, Any], data: st.DataObject) -> None:
    expected, text = whole(fields), json.dumps(fields, ensure_ascii=data.draw(st.booleans()))
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    for wrapped in (cut, f"```json\n{cut}", f"好的：{cut}", f"<think>嗯</think>{cut}"):
        assert refused(wrapped) or read(wrapped) == expected


@given(ANSWERS, st.sampled_from([("'", "'"), ("“", "”"), ("`", "`")]), st.data())
@settings(max_examples=300)
def test_a_mended_answer_says_nothing_else(fields: dict[str, Any], marks: tuple[str, str], data: st.DataObject) -> None:
    expected = whole(fields)
    quoted = json.dumps(fields, ensure_ascii=False).replace('\\"', "").split('"')
    assume(not set("'`“”‘’＂「」『』\\") & set(fields["leads_remark"]) and '"' not in fields["leads_remark"])
    text = "".join(part + (marks[n % 2] if n < len(quoted) - 1 else "") for n, part in enumerate(quoted))
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert refused(cut) or read(cut) == expected
