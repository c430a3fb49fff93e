"""Runs that are under way go on with this code: recorded histories of each kind of run replay.

A change that breaks one needs `workflow.patched`; one that was meant to is recorded anew (`tests/record_histories.py`).
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from tests.sayings import decoded
from worker import SANDBOX
from workflows.call_task import CallTaskWorkflow
from workflows.events import EventsWorkflow
from workflows.monitor import MonitorWorkflow
from workflows.withdraw import WithdrawWorkflow

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def read(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text("utf-8"))


def replayer() -> Replayer:
    return Replayer(
        workflows=[CallTaskWorkflow, MonitorWorkflow, WithdrawWorkflow, EventsWorkflow], workflow_runner=SANDBOX
    )


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    await replayer().replay_workflow(read(path))


async def test_a_history_that_went_another_way_does_not_replay() -> None:
    text = next(path for path in HISTORIES if path.stem == "plain").read_text("utf-8")
    changed = WorkflowHistory.from_json("plain", text.replace("match_pages", "match_nothing"))
    with pytest.raises(Exception, match="match_nothing"):
        await replayer().replay_workflow(changed)


def facts(path: Path) -> Counter[str]:
    """How often each kind of event, activity and signal is in a history."""
    counted: Counter[str] = Counter()
    for event in json.loads(path.read_text("utf-8"))["events"]:
        counted[event["eventType"].removeprefix("EVENT_TYPE_")] += 1
        for attributes in (value for key, value in event.items() if key.endswith("EventAttributes")):
            for name in ("activityType", "signalName"):
                value = attributes.get(name)
                if value and "SCHEDULED" in event["eventType"] + "SCHEDULED" * (name == "signalName"):
                    counted[value["name"] if isinstance(value, dict) else value] += 1
    return counted


SHOWS: dict[str, Callable[[Counter[str]], Any]] = {
    "plain": lambda f: f["assign_contacts"] and f["save_recordings"] and f["WORKFLOW_EXECUTION_COMPLETED"],
    "late-jobs": lambda f: f["settle_jobs"] and f["match_pages"] >= 2,
    "adopted": lambda f: f["match_pages"] >= 2 and f["settle_jobs"] and not f["open_job_group"],
    "lost-answers": lambda f: f["open_job_group"] >= 2 and f["assign_contacts"] >= 2 and f["TIMER_FIRED"] >= 2,
    "set-aside": lambda f: f["follow_up"] >= 2 and f["fetch_conversations"] >= 2,
    "signals": lambda f: f["force_analyze"] >= 2 and f["analyse_again"] and f["control_calls"] == 3 and f["refresh"],
    "controls": lambda f: f["WORKFLOW_EXECUTION_UPDATE_COMPLETED"] == f["control_calls"] == 3,
    "token-ceiling": lambda f: f["keep"] and f["follow_up"] >= 2,
    "force-analyze-2": lambda f: f["force_analyze"] and f["analyse_again"] and not f["follow_up"],
    "refused": lambda f: f["WORKFLOW_EXECUTION_FAILED"],
    "monitor-1": lambda f: f["take_up_tasks"],
    "monitor-2": lambda f: f["withdraw_calls"],
    "monitor-4": lambda f: f["watch_events"],
    "restarted-as-new-1": lambda f: f["WORKFLOW_EXECUTION_CONTINUED_AS_NEW"],
    "restarted-as-new-2": lambda f: f["WORKFLOW_EXECUTION_CONTINUED_AS_NEW"] or f["WORKFLOW_EXECUTION_COMPLETED"],
}


@pytest.mark.parametrize("name", SHOWS)
def test_each_history_shows_what_its_name_says(name: str) -> None:
    path = next(path for path in HISTORIES if path.stem == name)
    found = facts(path)
    assert SHOWS[name](found), found


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_history_holds_nothing_personal(path: Path) -> None:
    text = decoded(read(path))
    assert "1390000" not in text and "测试客户" not in text and "simulator-" not in text
    assert not any(word in text for word in ("您好", "试驾")), path.name
    assert ".py" not in text and not re.search(r"\d@(?!recorded)", text)
