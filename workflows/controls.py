"""Pause, resume and cancel: the dialling of a whole task, what is handed over and what the platform has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from temporalio import workflow

from activities.job_groups import ControlRequest
from activities.tasks import Keep, Task
from calltasks.names import CANCEL, PAUSE, RESUME
from calltasks.options import Carried
from workflows.steps import CONTROL, KEEP_OR_NOT, Steps
from workflows.tally import Tally

if TYPE_CHECKING:
    from workflows.handing_over import HandingOver

NOTHING_LEFT = "the task is over, the platform was not asked"


class Controls:
    """What operators have asked for, told to the platform in the order in which they did.

    Whoever hands leads over looks at :attr:`held` and stops at once; the platform is told meanwhile, and, if a piece
    was on its way to it then, once more when that is over: what it took in between is stopped too.

    Attributes:
        waiting: what the platform was not told yet.
        paused: the last word on it was pause.
        stopped: cancel was asked for: nothing more is ever handed over.
        cancelled: whether the platform ever took a cancel, or leads were left because of one.
    """

    def __init__(self, tally: Tally, carried: Carried | None) -> None:
        self._tally = tally
        self.waiting: list[str] = list(carried.controls) if carried else []
        self.paused = carried.paused if carried else False
        self.stopped = carried.stopped if carried else False
        self.cancelled = carried.cancelled if carried else False
        self._asked = len(self.waiting)
        self._told = 0
        self._awaited: set[int] = set()
        self._answers: dict[int, dict[str, Any]] = {}

    @property
    def held(self) -> bool:
        """Whether nothing may be handed over now."""
        return self.paused or self.stopped

    def recall(self, paused: bool) -> None:
        """What an earlier run was told, unless this one was told otherwise already."""
        if paused and not self.waiting:
            self.paused = True
            self._tally.last_control = "pause: done, by an earlier run"

    def ask(self, action: str) -> int:
        """Have the platform told; the number by which its answer is known."""
        self.paused = action == PAUSE
        self.stopped = self.stopped or action == CANCEL
        self.waiting.append(action)
        self._asked += 1
        return self._asked

    async def answer(self, number: int, over: Callable[[], bool]) -> dict[str, Any]:
        """Wait for what the platform says, or for the end of the run."""
        self._awaited.add(number)
        await workflow.wait_condition(lambda: number in self._answers or over())
        return self._answers.pop(number, {"done": False, "answer": NOTHING_LEFT})

    async def carry_out(self, dialling: HandingOver, steps: Steps, then: Callable[[], None]) -> None:
        """Tell the platform, for as long as the run lasts; ``then`` is called after each answer."""
        kept = dialling.task.kept.paused
        while True:
            await workflow.wait_condition(lambda: bool(self.waiting))
            action = self.waiting[0]
            done = await self._tell(action, dialling, steps)
            if kept != self.paused:
                kept = self.paused
                await steps.attempt(KEEP_OR_NOT, Keep(task_id=dialling.task.task_id, paused=kept))
            self.cancelled = self.cancelled or (action == CANCEL and done)
            answer = f"{action}: done" if done else f"{action}: the platform did not take it: {self._tally.last_error}"
            self._tally.last_control = answer
            self.waiting.pop(0)
            self._told += 1
            if self._told in self._awaited:
                self._answers[self._told] = {"done": done, "answer": answer}
            then()

    async def _tell(self, action: str, dialling: HandingOver, steps: Steps) -> bool:
        portion = dialling.portion
        under_way = portion is not None and not portion.done()
        done = await self._once(action, dialling.task, steps)
        if action == RESUME or portion is None or not under_way:
            return done
        await workflow.wait_condition(portion.done)
        await dialling.silence()
        return await self._once(action, dialling.task, steps)

    async def _once(self, action: str, task: Task, steps: Steps) -> bool:
        if not task.job_group_id:
            # Nobody was handed over: there is nothing that the platform could stop.
            return True
        request = ControlRequest(
            task_id=task.task_id,
            organization_id=task.organization_id,
            job_group_id=task.job_group_id,
            action=action,
        )
        done = await steps.attempt(CONTROL, request, action)
        return done is not None
