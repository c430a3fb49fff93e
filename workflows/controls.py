"""Pause, resume and cancel: the platform's dialling for a whole task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.job_groups import ControlRequest
    from activities.tasks import Task
    from workflows.options import Carried
    from workflows.steps import Steps
    from workflows.tally import Tally

ACTIONS = ("pause", "resume", "cancel")
NOTHING_LEFT = "the task is over, the platform was not asked"


class Controls:
    """What operators have asked for, told to the platform in the order in which they did.

    Attributes:
        waiting: what the platform was not told yet.
        cancelled: whether the platform ever took a cancel.
    """

    def __init__(self, tally: Tally, carried: Carried | None) -> None:
        self._tally = tally
        self.waiting: list[str] = list(carried.controls) if carried else []
        self.cancelled = carried.cancelled if carried else False
        self._asked = len(self.waiting)
        self._told = 0
        self._awaited: set[int] = set()
        self._answers: dict[int, dict[str, Any]] = {}

    def ask(self, action: str) -> int:
        """Have the platform told; the number by which its answer is known."""
        self.waiting.append(action)
        self._asked += 1
        return self._asked

    async def answer(self, number: int, over: Callable[[], bool]) -> dict[str, Any]:
        """Wait for what the platform says, or for the end of the run."""
        self._awaited.add(number)
        await workflow.wait_condition(lambda: number in self._answers or over())
        return self._answers.pop(number, {"done": False, "answer": NOTHING_LEFT})

    async def carry_out(self, task: Task, steps: Steps, then: Callable[[], None]) -> None:
        """Tell the platform, for as long as the run lasts; ``then`` is called after each answer."""
        while True:
            await workflow.wait_condition(lambda: bool(self.waiting))
            action = self.waiting[0]
            done = await steps.control(
                ControlRequest(
                    task_id=task.task_id,
                    organization_id=task.organization_id,
                    job_group_id=task.job_group_id,
                    action=action,
                )
            )
            self.cancelled = self.cancelled or (action == "cancel" and done is not None)
            answer = f"{action}: done" if done else f"{action}: the platform did not take it: {self._tally.last_error}"
            self._tally.last_control = answer
            self.waiting.pop(0)
            self._told += 1
            if self._told in self._awaited:
                self._answers[self._told] = {"done": done is not None, "answer": answer}
            then()
