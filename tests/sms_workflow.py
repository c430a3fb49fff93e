"""The workflow of `test_new_step.py`: a journey of one step more, which the product names in `activities/steps.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from temporalio import workflow

from calltasks.steps import Step
from workflows.call_task import CallTaskWorkflow

with workflow.unsafe.imports_passed_through():
    from tests.sms_step import SMS


@workflow.defn(name="CallTaskWorkflow")
class WithSms(CallTaskWorkflow):
    """One call task from start-call to the last SMS."""

    journey: ClassVar[Sequence[Step[Any, Any]]] = (*CallTaskWorkflow.journey, SMS)

    @workflow.run
    async def run(self, input: Any = None) -> dict[str, Any]:
        return await super().run(input)
