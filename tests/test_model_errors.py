"""The model's client on whatever is answered: shapes of bodies, and what each refusal means (docs/judgements.md)."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from dashscope.v2.errors import APIStatusError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from calltasks.errors import (
    AccountError,
    PassingError,
    PermanentError,
    ServiceError,
    ThrottledError,
    UnreadableAnswerError,
)
from calltasks.limiter import RateLimiter
from calltasks.model.analysis import LONGEST_WAIT, REFUSALS, THROTTLED_TRIES, UNSURE_TRIES, AnalysisModel, Completion
from calltasks.model.errors import BILL, CALL, CODES, HINTS, KEY, MODEL, PASSING, THROTTLED, _kind, translate
from calltasks.settings import AnalysisSettings

PAGE = Path(__file__).parent.parent / "docs" / "judgements.md"
HTML = "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"
PHONE = "13900000001"


class Vendor:
    """A server that answers what it was told to, and a client of it that waits for nobody."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {}
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.waits: list[float] = []
        self.model: AnalysisModel

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        await request.read()
        if isinstance(self.body, str):
            return web.Response(status=self.status, text=self.body, content_type="text/html", headers=self.headers)
        return web.json_response(self.body, status=self.status, headers=self.headers)

    def client(self, url: str, **settings: Any) -> AnalysisModel:
        async def reserve(seconds: float) -> float:
            return 0.0

        async def push_back(seconds: float) -> None:
            self.waits.append(seconds)

        given = AnalysisSettings(dashscope_api_key=SecretStr("k"), dashscope_http_base_url=url, **settings)
        return AnalysisModel(given, RateLimiter(100_000, 50, reserve=reserve, push_back=push_back))

    async def ask(self) -> Completion:
        return await self.model.complete(system="json", user=f"客户：{PHONE}", tenant="org7")

    async def fails(self, status: int, code: Any = None, message: str = "x", **headers: str) -> ServiceError:
        """The error for this refusal, in both of the vendor's forms."""
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = {"code": code, "message": f"{message} {PHONE}", "request_id": "r-1"}
        with pytest.raises(ServiceError) as native:
            await self.ask()
        self.body = {"error": {"code": code, "message": f"{message} {PHONE}", "type": code}, "request_id": "r-1"}
        with pytest.raises(ServiceError) as compatible:
            await self.ask()
        if status >= 400:
            assert (type(native.value), native.value.code) == (type(compatible.value), compatible.value.code)
        assert PHONE not in str(native.value) and "r-1" in str(native.value)
        return native.value


@pytest.fixture(params=["model", "application"])
async def vendor(request: pytest.FixtureRequest) -> AsyncIterator[Vendor]:
    vendor = Vendor()
    server = web.Application()
    server.router.add_post("/{path:.*}", vendor.handle)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    app = {"analysis_app_id": "app-1"} if request.param == "application" else {}
    vendor.model = vendor.client(f"http://127.0.0.1:{port}/api/v1", **app)
    yield vendor
    await vendor.model.close()
    await runner.cleanup()


# --- shapes of an answer --------------------------------------------------------------------------------------------

USAGE = {"input_tokens": 7, "output_tokens": 9}


def said(content: Any, reason: Any = "stop", **message: Any) -> dict[str, Any]:
    choice = {"finish_reason": reason, "message": {"role": "assistant", "content": content, **message}}
    return {"output": {"choices": [choice]}, "usage": USAGE, "request_id": "r-1"}


WHOLE = {
    "a message": said("{}"),
    "a text": {"output": {"text": "{}", "finish_reason": "stop"}, "usage": USAGE},
    "a text and no reason": {"output": {"text": "{}"}, "usage": USAGE},
    "no reason": said("{}", None),
    "the reason null": said("{}", "null"),
    "the reason in capitals": said("{}", "STOP"),
    "parts": said([{"text": "{"}, {"text": "}"}]),
    "parts with a type": said([{"type": "text", "text": "{}"}]),
    "parts with a thought": said(
        [{"type": "thinking", "text": "2"}, {"type": "reasoning", "text": "1"}, {"text": "{}"}]
    ),
    "parts that are texts": said(["{}"]),
    "one part": said({"text": "{}"}),
    "an object": said({}),
    "a thought beside it": said("{}", reasoning_content='{"is_interested": 2}'),
    "more fields": said("{}", tool_calls=[], refusal=None, audio={"id": 1}) | {"code": None, "message": ""},
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in WHOLE.items()])
async def test_an_answer_is_read_in_every_shape(vendor: Vendor, body: dict[str, Any]) -> None:
    vendor.body = body
    assert await vendor.ask() == Completion(model=vendor.model.name, text="{}", input_tokens=7, output_tokens=9)


OF_NO_USE = {
    "cut off": (said('{"a": 1}', "length"), "Unfinished.length"),
    "cut off, as a text": ({"output": {"text": "{}", "finish_reason": "length"}, "usage": USAGE}, "Unfinished.length"),
    "filtered": (said("{}", "content_filter"), "Unfinished.content_filter"),
    "a tool": (said(None, "tool_calls", tool_calls=[{"id": "1"}]), "Unfinished.tool_calls"),
    "a reason that nobody knows": (said("{}", {"a": [1]}), "Unfinished.other"),
    "nothing": (said(None), "NoAnswer"),
    "blanks": (said(" \n"), "NoAnswer"),
    "a refusal": (said(None, refusal="no"), "NoAnswer"),
    "a number": (said(1), "NoAnswer"),
    "only a thought": (said("", reasoning_content="{}"), "NoAnswer"),
    "thoughts as parts": (said([{"type": "thinking", "text": "{}"}]), "NoAnswer"),
    "no choices": ({"output": {"choices": []}, "usage": USAGE}, "NoAnswer"),
    "odd choices": ({"output": {"choices": [1]}, "usage": USAGE}, "NoAnswer"),
    "no message": ({"output": {"choices": [{"finish_reason": "stop"}]}, "usage": USAGE}, "NoAnswer"),
    "an odd message": ({"output": {"choices": [{"message": "x"}]}, "usage": USAGE}, "NoAnswer"),
    "no output": ({"output": None, "usage": USAGE}, "NoAnswer"),
    "an odd output": ({"output": "{}", "usage": USAGE}, "NoAnswer"),
    "far too long": (said("x" * 50_001), "UnreadableAnswer"),
}


@pytest.mark.parametrize(("body", "code"), [pytest.param(*case, id=name) for name, case in OF_NO_USE.items()])
async def test_an_answer_of_no_use_tells_what_it_cost(vendor: Vendor, body: dict[str, Any], code: str) -> None:
    vendor.body = body | {"request_id": "r-1"}
    with pytest.raises(UnreadableAnswerError) as refused:
        await vendor.ask()
    error = refused.value
    assert (error.code, error.input_tokens, error.output_tokens) == (code, 7, 9)
    assert (error.model, error.request_id) == (vendor.model.name, "r-1")
    assert vendor.asked == 1


@pytest.mark.parametrize("body", [HTML, "", "null", "[]", "1", "{", "[" * 50_000], ids=lambda body: body[:5])
async def test_what_is_no_answer_of_the_service_may_pass(vendor: Vendor, body: str) -> None:
    vendor.body = body
    with pytest.raises(PassingError, match="UnreadableAnswer") as refused:
        await vendor.ask()
    assert not isinstance(refused.value, UnreadableAnswerError)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (0, 0)), ({}, (0, 0)), ("7", (0, 0)), ({"input_tokens": None, "output_tokens": 9}, (0, 9)),
        ({"input_tokens": "7", "output_tokens": " 9 "}, (7, 9)), ({"input_tokens": 7.0, "output_tokens": 1.5}, (7, 0)),
        ({"input_tokens": True, "output_tokens": -9}, (0, 0)), ({"input_tokens": 10**12, "output_tokens": 9}, (0, 9)),
        ({"input_tokens": "9" * 5000, "output_tokens": []}, (0, 0)),
        ({"prompt_tokens": 7, "completion_tokens": 9}, (7, 9)),
        ({"models": [USAGE, {"model_id": "x", **USAGE}]}, (14, 18)), ({"models": [USAGE, None, 3]}, (7, 9)),
        ({"models": None, **USAGE}, (7, 9)), ({"models": [], **USAGE}, (7, 9)), ({"models": {}, **USAGE}, (7, 9)),
        ([USAGE, USAGE], (14, 18)),
    ],
    ids=str,
)  # fmt: skip
async def test_tokens_are_counted_however_they_are_told(vendor: Vendor, usage: Any, tokens: tuple[int, int]) -> None:
    vendor.body = said("{}") | {"usage": usage}
    answer = await vendor.ask()
    assert (answer.text, answer.input_tokens, answer.output_tokens) == ("{}", *tokens)


# --- what a refusal means -------------------------------------------------------------------------------------------

QUOTA = "Allocated quota exceeded, please increase your quota limit."
BILLING = "You exceeded your current quota, please check your plan and billing details."
EXPECTED = [
    # status, code, message, kind, what is shown
    (429, "Throttling", "Requests throttling triggered.", THROTTLED, "Throttling"),
    (429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later.", THROTTLED, None),
    (429, "Throttling.BurstRate", "Request rate increased too quickly.", THROTTLED, None),
    (429, "Throttling.Concurrency", "Too many concurrent requests.", THROTTLED, None),
    (429, "Throttling.AllocationQuota", QUOTA, THROTTLED, None),
    (429, "insufficient_quota", BILLING, THROTTLED, None),
    (429, "limit_requests", "You exceeded your current requests list.", THROTTLED, None),
    (429, "limit_burst_rate", "Request rate increased too quickly.", THROTTLED, None),
    (429, "Throttling.SomethingNew", "x", THROTTLED, None),
    (400, "Throttling.RateQuota", "x", THROTTLED, None),
    (200, "Throttling.RateQuota", "x", THROTTLED, None),
    (429, "NobodyKnows", "x", THROTTLED, None),
    (429, None, "x", THROTTLED, "HTTP429"),
    (429, "PrepaidBillOverdue", "The prepaid bill is overdue.", BILL, None),
    (429, "PostpaidBillOverdue", "The postpaid bill is overdue.", BILL, None),
    (429, "CommodityNotPurchased", "Commodity has not purchased yet.", BILL, None),
    (429, "BudgetLimitExceeded", "The budget configured in Budget Management has been exhausted.", BILL, None),
    (429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", BILL, "Throttling.AllocationQuota.UsedUp"),
    (429, "insufficient_quota", "Free allocated quota exceeded.", BILL, "insufficient_quota.UsedUp"),
    (429, "insufficient_quota", "hour allocated quota exceeded", BILL, "insufficient_quota.UsedUp"),
    (429, "Throttling.AllocationQuota", "week allocated quota exceeded", BILL, "Throttling.AllocationQuota.UsedUp"),
    (429, "NobodyKnows", "month allocated quota exceeded", BILL, "NobodyKnows.UsedUp"),
    (429, "NobodyKnows", "您在「预算管理」中设置的预算额度已用尽。", BILL, "NobodyKnows.UsedUp"),
    (403, "AllocationQuota.FreeTierOnly", "The free tier of the model has been exhausted.", BILL, None),
    (400, "Arrearage", "Access denied, please make sure your account is in good standing.", BILL, None),
    (200, "Arrearage", "x", BILL, None),
    (402, "NobodyKnows", "x", BILL, None),
    (401, "InvalidApiKey", "Invalid API-key provided.", KEY, None),
    (401, "invalid_api_key", "Incorrect API key provided.", KEY, None),
    (401, "NOT AUTHORIZED", "Access denied", KEY, "NOT_AUTHORIZED"),
    (401, "NobodyKnows", "x", KEY, None),
    (403, "AccessDenied", "Access denied.", MODEL, None),
    (403, "AccessDenied", "Access denied for overdue payments.", BILL, "AccessDenied.UsedUp"),
    (403, "access_denied", "Please make sure your account is in good standing.", BILL, "access_denied.UsedUp"),
    (400, "InvalidParameter", "model 'qwen-nought' is not supported", MODEL, None),
    (400, "invalid_parameter_error", "Model qwen-nought does not exist.", MODEL, None),
    (403, "AccessDenied.Unpurchased", "Access to model denied.", MODEL, None),
    (403, "Model.AccessDenied", "Model access denied.", MODEL, None),
    (403, "App.AccessDenied", "App access denied.", MODEL, None),
    (403, "Workspace.AccessDenied", "Workspace access denied.", MODEL, None),
    (404, "ModelNotFound", "Model can not be found.", MODEL, None),
    (404, "model_not_found", "The model xxx does not exist.", MODEL, None),
    (404, "Model.NotExist", "x", MODEL, None),
    (400, "InvalidParameter", "Model not exist.", MODEL, None),
    (404, "NobodyKnows", "x", MODEL, None),
    (400, "DataInspectionFailed", "Input data may contain inappropriate content.", CALL, None),
    (400, "data_inspection_failed", "Output data may contain inappropriate content.", CALL, None),
    (200, "DataInspectionFailed", "x", CALL, None),
    (400, "InvalidParameter", "Range of input length should be [1, 6000]", CALL, None),
    (400, "NobodyKnows", "x", CALL, None),
    (413, "NobodyKnows", "x", CALL, None),
    (408, "RequestTimeOut", "x", PASSING, None),
    (408, "NobodyKnows", "x", PASSING, None),
    (500, "InternalError", "x", PASSING, None),
    (500, "InternalError.Algo", "x", PASSING, None),
    (500, "NobodyKnows", "Free allocated quota exceeded.", PASSING, None),
    (503, "ModelUnavailable", "x", PASSING, None),
    (503, "ModelServingError", "Too many requests.", PASSING, None),
    (504, "GatewayTimeout", "x", PASSING, None),
    (200, "NobodyKnows", "x", PASSING, None),
    (400, None, "x", PASSING, "HTTP400"),
    (403, None, "x", PASSING, "HTTP403"),
    (502, None, "x", PASSING, "HTTP502"),
    (500, 17, "x", PASSING, "HTTP500"),
    (400, ["x"], "x", PASSING, None),
]  # fmt: skip
# As issues of public projects quote them.
WRONG_MODES = [
    "parameter.enable_thinking must be set to false for non-streaming calls",
    "parameter.enable_thinking only support stream call",
    "parameter.enable_thinking必须设置为false才能进行非流式调用",
    "enable thinking can not be support when `stream=False`.",
    "The value of the enable_thinking parameter is restricted to True.",
    "Json mode response is not supported when enable_thinking is true",
    "This model only support stream mode, please enable the stream parameter to access the model. ",
    "current user api does not support http call.",
    "The incremental_output parameter of this model cannot be set to False.",
    "<400> InternalError.Algo.InvalidParameter: 'response_format' of type 'json_object' is not supported",
    "url error, please check url！",
]
KINDS = {THROTTLED: ThrottledError, BILL: AccountError, KEY: AccountError, MODEL: AccountError, CALL: PermanentError}


@pytest.mark.parametrize(("status", "code", "message", "kind", "shown"), EXPECTED)
async def test_a_code_means_one_thing(
    vendor: Vendor, status: int, code: Any, message: str, kind: str, shown: str | None
) -> None:
    if status == 200 or not isinstance(code, str | None):
        vendor.status, vendor.body = status, {"code": code, "message": f"{message} {PHONE}", "request_id": "r-1"}
        with pytest.raises(ServiceError) as refused:
            await vendor.ask()
        error = refused.value
    else:
        error = await vendor.fails(status, code, message)
    assert type(error) is KINDS.get(kind, PassingError)
    if isinstance(code, str):
        assert error.code == (shown or code)
    elif shown:
        assert error.code == shown
    if isinstance(error, AccountError):
        assert error.kind == kind and str(error).endswith(HINTS[kind])
    assert PHONE not in str(error) and len(str(error)) < 300


@pytest.mark.parametrize("code", ["InvalidParameter", "invalid_parameter_error"])
@pytest.mark.parametrize("message", WRONG_MODES)
async def test_a_model_that_thinks_or_streams_is_told_by_its_setting(vendor: Vendor, code: str, message: str) -> None:
    error = await vendor.fails(400, code, message)
    assert isinstance(error, AccountError) and (error.kind, error.code) == (MODEL, f"{code}.Mode")
    assert "ANALYSIS_MODEL must name a model" in str(error) and vendor.asked == 2


def test_every_code_stands_in_the_table_once_and_on_the_page() -> None:
    spelled = [(kind, code) for kind, line in CODES.items() for code in line.split()]
    plain = {(kind, re.sub("[^a-z0-9]", "", code.lower())) for kind, code in spelled}
    assert len({code for _, code in spelled}) == len(spelled) and len({code for _, code in plain}) == len(plain)
    page = PAGE.read_text("utf-8")
    assert [code for _, code in spelled if f"`{code}`" not in page] == []


# --- how often it is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "asked"),
    [("Throttling.RateQuota", THROTTLED_TRIES), (None, THROTTLED_TRIES), ("NobodyKnows", UNSURE_TRIES)],
)
async def test_throttling_ends_and_what_nobody_knows_sooner(vendor: Vendor, code: str | None, asked: int) -> None:
    vendor.status, vendor.body = 429, {"code": code, "message": "x"}
    with pytest.raises(ThrottledError):
        await vendor.ask()
    assert vendor.asked == asked and len(vendor.waits) == asked - 1
    assert sum(vendor.waits) < (100 if asked == THROTTLED_TRIES else 8)


@pytest.mark.parametrize(
    ("after", "waits"),
    [
        ("3", [3.0] * 7),
        (str(LONGEST_WAIT), [LONGEST_WAIT] * 7),
        ("18000", []),
        ("inf", []),
        ("nan", None),
        ("-1", None),
        ("x", None),
    ],
)
async def test_nobody_waits_longer_than_a_limit_by_the_minute(
    vendor: Vendor, after: str, waits: list[float] | None
) -> None:
    vendor.status, vendor.headers, vendor.body = 429, {"Retry-After": after}, {"code": "Throttling", "message": "x"}
    with pytest.raises(ThrottledError):
        await vendor.ask()
    assert vendor.waits == ([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] if waits is None else waits)


async def many(vendor: Vendor, count: int) -> list[BaseException]:
    found = await asyncio.gather(*(vendor.ask() for _ in range(count)), return_exceptions=True)
    return [one for one in found if isinstance(one, BaseException)]


async def test_thousands_of_calls_do_not_ask_an_account_that_refuses(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.status, vendor.body = 429, {"code": "PrepaidBillOverdue", "message": "x"}
    refused = await many(vendor, 4000)
    assert len(refused) == 4000 and {(type(error), str(error)) for error in refused} == {
        (AccountError, f"DashScope completion: PrepaidBillOverdue: {HINTS[BILL]}")
    }
    assert REFUSALS <= vendor.asked <= REFUSALS + 50  # what was under way by then
    assert vendor.waits == []
    vendor.status, vendor.body = 200, said("{}")
    monkeypatch.setattr("calltasks.model.analysis.REFUSED_SECONDS", 0.0)
    monkeypatch.setattr(vendor.model, "_refused_until", 0.0)
    assert await many(vendor, 20) == []


async def test_a_refusal_among_answers_stops_nobody(vendor: Vendor) -> None:
    for _ in range(3 * REFUSALS):
        vendor.status, vendor.body = 403, {"code": "AccessDenied", "message": "x"}
        with suppress(AccountError):
            await vendor.ask()
        vendor.status, vendor.body = 200, said("{}")
        assert (await vendor.ask()).text == "{}"
    assert vendor.asked == 6 * REFUSALS


async def test_what_is_refused_of_one_call_stops_nobody(vendor: Vendor) -> None:
    vendor.status, vendor.body = 400, {"code": "DataInspectionFailed", "message": "x"}
    assert {type(error) for error in await many(vendor, 30)} == {PermanentError}
    assert vendor.asked == 30


@given(st.integers(100, 599), st.text(max_size=40) | st.none() | st.integers(), st.text("说1 ", max_size=60))
def test_whatever_is_refused_has_one_typed_error(status: int, code: Any, message: str) -> None:
    error = translate(APIStatusError(message, code=code, status_code=status, headers={"retry-after": message}))
    assert type(error) in {PassingError, ThrottledError, PermanentError, AccountError}
    assert str(error).isascii() and (len(message) < 9 or code == message or message not in str(error))


@pytest.mark.parametrize(("qpm", "under_way"), [(60, 100), (1200, 100), (15_000, 600), (1_000_000, 1000)])
def test_calls_under_way_follow_the_limit(qpm: float, under_way: int) -> None:
    assert AnalysisSettings(dashscope_api_key=SecretStr("k"), analysis_qpm=qpm).under_way == under_way


def test_a_setting_that_the_model_refuses_is_named() -> None:
    refusal = _kind(400, "InvalidParameter", "Unknown parameter: seed")
    assert refusal[:2] == (MODEL, "InvalidParameter.Setting") and "ANALYSIS_SEED" in refusal[2]
