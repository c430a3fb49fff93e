"""Which model is asked, and in which form, as the simulators see it over HTTP (docs/judgements.md)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from calltasks.errors import AccountError
from calltasks.limiter import RateLimiter
from calltasks.model import analysis
from calltasks.model.analysis import RETIRED_SECONDS, AnalysisModel
from calltasks.observing import telemetry
from calltasks.settings import AnalysisSettings
from simulators import DASHSCOPE_API_KEY, SimulatorOptions, Simulators, running
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Sites

THINKING = ("qwen3-8b", "qwen3-235b-a22b", "qwen3-max", "deepseek-v3.1", "glm-4.5")
PLAIN = ("qwen-plus", "qwen-flash", "qwen3-235b-a22b-instruct-2507", "qwen3-coder-plus", "deepseek-v3")


@pytest.fixture
async def simulators() -> AsyncIterator[Simulators]:
    async with running(SimulatorOptions()) as simulators:
        yield simulators


def client(simulators: Simulators, **settings: Any) -> AnalysisModel:
    """The product's client of the simulators, held up by no limit."""

    async def at_once(seconds: float) -> float:
        return 0.0

    async def never(seconds: float) -> None:
        pytest.fail("nobody throttles here")

    url = f"{simulators.url}/api/v1"
    given = AnalysisSettings(dashscope_api_key=SecretStr(DASHSCOPE_API_KEY), dashscope_http_base_url=url, **settings)
    return AnalysisModel(given, RateLimiter(100_000, 50, reserve=at_once, push_back=never))


async def ask(model: AnalysisModel) -> str:
    """Put a question; the name of the model that answered."""
    answer = await model.complete(system="json", user="客户：不需要，谢谢。", tenant="org7")
    return answer.model


def asked(simulators: Simulators) -> Counter[str]:
    """How often each model was asked."""
    counts: Counter[str] = Counter()
    for form in simulators.stats.report(simulators.world)["questions"]:
        counts[form["model"]] += form["calls"]
    return counts


@pytest.mark.parametrize(("name", "told"), [*((name, False) for name in THINKING), *((name, None) for name in PLAIN)])
async def test_only_a_model_that_thinks_is_told_not_to(simulators: Simulators, name: str, told: bool | None) -> None:
    model = client(simulators, analysis_model=name)
    assert await ask(model) == name
    await model.close()
    [form] = simulators.stats.report(simulators.world)["questions"]
    assert form == {"model": name, "response_format": "json_schema", "enable_thinking": told, "calls": 1}


async def test_a_campaign_is_judged_by_a_model_that_thinks_by_default(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1), ANALYSIS_MODEL="qwen3-32b")
    site.add_leads(20)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id, QUICK)
    assert (result["analysed"], result["analysis_failed"]) == (20, 0)
    assert {form["enable_thinking"] for form in site.stats()["questions"]} == {False}
    assert_finished(site, task_id, result)


class Clock:
    """The time that the client goes by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(analysis, "monotonic", lambda: self.now)


async def test_a_retired_model_is_tried_again_by_one_call_every_ten_minutes(
    simulators: Simulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    shown: list[bool] = []
    monkeypatch.setattr(telemetry.metrics, "fell_back", shown.append)
    model = client(simulators, analysis_model="qwen-old", analysis_fallback_model="qwen-new")
    simulators.model.switch(retired=["qwen-old"])
    assert [await ask(model) for _ in range(3)] == ["qwen-new"] * 3
    assert asked(simulators) == {"qwen-old": 1, "qwen-new": 3}
    clock.now = RETIRED_SECONDS - 1
    assert await ask(model) == "qwen-new" and asked(simulators)["qwen-old"] == 1
    # Of many calls at once one tries it, and has its answer from the fallback all the same.
    clock.now = RETIRED_SECONDS + 1
    assert set(await asyncio.gather(*(ask(model) for _ in range(10)))) == {"qwen-new"}
    assert asked(simulators)["qwen-old"] == 2
    simulators.model.switch(retired=[])
    assert await ask(model) == "qwen-new"
    assert shown == [False, True, True]
    clock.now = 2 * RETIRED_SECONDS + 2
    assert [await ask(model) for _ in range(3)] == ["qwen-old"] * 3
    assert (asked(simulators)["qwen-old"], shown[-1]) == (5, False)
    await model.close()


async def test_without_a_fallback_a_retired_model_is_the_accounts_matter(simulators: Simulators) -> None:
    model = client(simulators, analysis_model="qwen-old")
    simulators.model.switch(retired=["qwen-old"])
    with pytest.raises(AccountError) as gone:
        await ask(model)
    assert (gone.value.kind, gone.value.code) == ("model", "ModelNotFound")
    await model.close()


async def test_a_wrong_key_is_no_retired_model(simulators: Simulators) -> None:
    settings = {"analysis_model": "qwen-old", "analysis_fallback_model": "qwen-new"}
    model = client(simulators, **settings)
    simulators.faults.load([{"target": "model", "kind": "invalid_key", "count": 1}])
    with pytest.raises(AccountError) as refused:
        await ask(model)
    assert refused.value.kind == "key"
    assert await ask(model) == "qwen-old" and asked(simulators)["qwen-new"] == 0
    await model.close()


async def test_both_models_retired_are_asked_once_each_for_a_call(simulators: Simulators) -> None:
    model = client(simulators, analysis_model="qwen-old", analysis_fallback_model="qwen-new")
    simulators.model.switch(retired=["qwen-old", "qwen-new"])
    with pytest.raises(AccountError):
        await ask(model)
    assert asked(simulators) == {"qwen-old": 1, "qwen-new": 1}
    await model.close()
