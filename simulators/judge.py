"""The simulated model: reads the transcript out of a prompt and judges the call by rules.

It never obeys what is said in the call: sentences that address a machine are left out before judging.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from simulators.dialogues import SLOTS
from simulators.spoken_times import find_words, names_time

_LINE = re.compile(
    r"^[\s\d\[\]()（）{}<>【】.、:：#*|-]{0,24}(客户|用户|联系人|contact|机器人|坐席|客服|robot)\s*[\])）】>*]{0,3}\s*[:：](.*)$",
    re.IGNORECASE,
)
_CUSTOMER = frozenset({"客户", "用户", "联系人", "contact"})
_MOMENT = re.compile(r"\d{4}-[01]\d-[0-3]\d[ T][0-2]\d:[0-5]\d")
_SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;]*")
_INJECTION = re.compile(
    r"忽略.{0,12}(指令|要求|规则|提示|内容)|is_interested|leads_remark|next_follow_time|系统(提示|指令|消息)|json|"
    r"把我.{0,4}标|标(记|注)?(为|成).{0,4}(意向|兴趣)|请?输出.{0,12}(意向|兴趣|1)|(指令|规则)(作废|无效)|"
    r"ignore .{0,30}(above|previous)|prompt",
    re.IGNORECASE,
)
_NEVER = re.compile(
    r"别再?打|不要再?打|投诉|骚扰|拉黑|打错|不认识|不是本人|已经(买|提车|订|定)|买过了|刚(买|提)了?(车|一台)|订好了|(?<!就)是?卖车的|不买车|吊销"
)
_REFUSES = re.compile(r"(别|不要)再?打")
_WRONG_NUMBER = re.compile(r"打错|不是本人")
_AGAINST = re.compile(
    r"不需要|不用了|不考虑|不想(买|要|弄|听|换)|没兴趣|不感兴趣|没有(这个|这种)?(打算|想法|需要|需求|意向)|没(这个)?打算|不打算|"
    r"不会买|不敢买|不看了|不去了|不用通知|买什么车|算了(?!.{0,4}(行|可以))"
)
_STRONG = re.compile(
    r"试驾|试车|试一下|(过去|过来|去|来|约).{0,6}看(看|一下|车|一看)?|看车|(想|打算|准备).{0,6}(买|订|换|添|了解|入手)|我请假去看|开过来|"
    r"感兴趣|有兴趣|有意向|加.{0,4}微信|(发|报).{0,8}(地址|定位|配置|资料|报价|方案|短信)|定金|留一台|提车|合同|基本定了|"
    r"更想买|来接我|算个.{0,4}方案|过来一趟|去店里|再给你们一次机会|大客户政策|一起过来"
)
_WEAK = re.compile(r"多少钱|什么价|价格|优惠|落地|首付|分期|月供|贷款|置换|抵多少|补贴|现车|续航|配置|保修|便宜")
_UNSURE = re.compile(r"再说|考虑考虑|商量|观望|看情况|等等看|犹豫|没定|没印象|随便")
_TOPICS = (
    (re.compile(r"语音助理|语音助手|请在提示音|暂时无法接听"), "由语音助手或信箱接听，未与本人通话"),
    (re.compile(r"投诉|骚扰|烦不烦|别再?打|不要再?打"), "对来电不满，要求不再致电"),
    (re.compile(r"打错|不是本人|不认识"), "号码并非目标客户"),
    (re.compile(r"已经(买|提车|订|定)|买过了|订好了"), "已购车或已下订"),
    (re.compile(r"开车|高速"), "正在开车"),
    (re.compile(r"开会|在忙|吃饭|有客人|出差"), "当时不便通话"),
    (re.compile(r"听不清|信号不好"), "通话信号不佳"),
    (re.compile(r"置换|抵多少|旧车|报废"), "关心旧车处理与补贴"),
    (re.compile(r"首付|分期|月供|贷款|免息"), "询问分期方案"),
    (re.compile(r"多少钱|什么价|价格|落地|便宜|报价|太贵|超我?预算"), "关心价格"),
    (re.compile(r"续航|充电"), "关心续航与充电"),
    (re.compile(r"微信"), "同意加微信"),
    (re.compile(r"地址|在哪"), "询问门店地址"),
    (re.compile(r"试驾|试车"), "提到试驾"),
    (re.compile(r"老婆|爱人|太太|家里"), "需与家人一起决定"),
    (re.compile(r"隔壁|别的店|他们给我|竞品|合资|另一家"), "正在比较其他品牌"),
)
_VERDICTS = ("{}的意向尚不明确", "{}有购车意向", "{}目前没有购车意向")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the model makes of a call; `interest` is 0 cannot tell, 1 interested, 2 not interested."""

    interest: int
    remark: str
    when: datetime | None
    evidence: str
    refusal: str = ""
    wrong_number: bool = False

    def answer(self) -> dict[str, Any]:
        """The JSON object that the model answers."""
        return {
            "leads_remark": self.remark,
            "is_interested": self.interest,
            "next_follow_time": self.when.strftime("%Y-%m-%d %H:%M:%S") if self.when else None,
            "do_not_call_evidence": self.refusal,
            "do_not_call": bool(self.refusal),
            "wrong_number": self.wrong_number,
            "evidence": self.evidence,
        }


def judge_prompt(prompt: str) -> dict[str, Any]:
    """Judges the last transcript in `prompt`; the call's time is the first moment written in it, else now."""
    turns = transcript(prompt)
    subject = next((model for model in SLOTS["model"] if any(model in text for _, text in turns)), "")
    return judge([text for customer, text in turns if customer], call_time(prompt), subject).answer()


def transcript(prompt: str) -> list[tuple[bool, str]]:
    """The last transcript in the text, as (said by the customer, words): JSON turns or lines `客户：…`."""
    return _json_turns(prompt) or _line_turns(prompt)


def call_time(prompt: str) -> datetime:
    """The time of the call as the prompt gives it; the machine's own time where it does not."""
    for line in prompt.splitlines():
        if re.search(r"(通话|呼叫|拨打|来电|call).{0,6}(时间|time)", line, re.IGNORECASE) and (
            found := _MOMENT.search(line)
        ):
            return datetime.fromisoformat(found[0])
    found = _MOMENT.search(prompt)
    return datetime.fromisoformat(found[0]) if found else datetime.now()


def judge(said: list[str], called: datetime, subject: str = "") -> Judgement:
    """Judges what the customer said, turn by turn, in a call at `called`; `subject` is the car that it was about."""
    sentences, with_times, interest, decisive, remark = _read(tuple(said), subject)
    when, words, timed = _when(with_times, called) if interest != 2 else (None, "", "")
    evidence = decisive or timed or (sentences[-1] if sentences else "")
    if when:
        remark += f"约定{words}（{when.month}月{when.day}日{when:%H:%M}）跟进。"
    return Judgement(
        interest=interest,
        remark=remark,
        when=when,
        evidence=evidence,
        refusal=next((sentence for sentence in sentences if _REFUSES.search(sentence)), ""),
        wrong_number=any(_WRONG_NUMBER.search(sentence) for sentence in sentences),
    )


@lru_cache(maxsize=4096)
def _read(said: tuple[str, ...], subject: str) -> tuple[list[str], list[str], int, str, str]:
    """What does not depend on the time of the call: sentences, those that name times, interest, evidence, remark."""
    sentences = [part.strip() for text in said if not _INJECTION.search(text) for part in _SENTENCE.findall(text)]
    sentences = [sentence for sentence in sentences if sentence]
    interest, decisive = _interest(sentences)
    with_times = [sentence for sentence in sentences if names_time(sentence)]
    return sentences, with_times, interest, decisive, _remark(sentences, interest, subject)


def _interest(sentences: list[str]) -> tuple[int, str]:
    against, wanted, asked, unsure = -1, -1, -1, -1
    for index, sentence in enumerate(sentences):
        if _NEVER.search(sentence):
            return 2, sentence
        if _AGAINST.search(sentence):
            against = index
        elif _STRONG.search(sentence) and not _UNSURE.search(sentence):
            wanted = index
        elif _UNSURE.search(sentence):
            unsure = index
        elif _WEAK.search(sentence):
            asked = index
    if against > max(wanted, -1):
        return 2, sentences[against]
    if wanted > unsure or (wanted >= 0 and unsure < 0):
        return 1, sentences[wanted]
    if asked > unsure:
        return 1, sentences[asked]
    return 0, sentences[unsure] if unsure >= 0 else ""


def _when(sentences: list[str], called: datetime) -> tuple[datetime | None, str, str]:
    for sentence in reversed(sentences):
        moment, words = find_words(sentence, called)
        if moment:
            return moment, words, sentence
    return None, "", ""


def _remark(sentences: list[str], interest: int, subject: str) -> str:
    whole = "".join(sentences)
    if not whole.strip("….。嗯哦啊？！， "):
        return "客户接通后几乎没有说话，意向尚不明确。"
    topics = [phrase for pattern, phrase in _TOPICS if pattern.search(whole)][:3]
    return "，".join([f"客户{_VERDICTS[interest].format(f'对{subject}' if subject else '')}", *topics]) + "。"


def _line_turns(prompt: str) -> list[tuple[bool, str]]:
    turns: list[tuple[bool, str]] = []
    for line in reversed(prompt.splitlines()):
        found = _LINE.match(line)
        if found:
            turns.append((found[1].lower() in _CUSTOMER, found[2].strip()))
        elif turns and line.strip():
            break
    return turns[::-1]


def _json_turns(prompt: str) -> list[tuple[bool, str]]:
    end = prompt.rfind('"Script"')
    if end < 0:
        return []
    start = prompt.rfind("[", 0, end)
    while start >= 0:
        try:
            turns, _ = json.JSONDecoder().raw_decode(prompt, start)
        except ValueError:
            turns = None
        if isinstance(turns, list) and all(isinstance(turn, dict) and "Script" in turn for turn in turns):
            return [(turn.get("Speaker") == "Contact", str(turn["Script"])) for turn in turns]
        start = prompt.rfind("[", 0, start)
    return []
