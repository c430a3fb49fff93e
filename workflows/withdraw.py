"""``WithdrawWorkflow``: the one run that withdraws calls of people who said no (rule 11.10). It has no end, and five
events: a look is an attempt of its only activity."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import Priority

from activities.opt_outs import OptOuts
from calltasks import options
from calltasks.names import OUTBOUND_BOT, WITHDRAW_WORKFLOW, Turn


@workflow.defn(name=WITHDRAW_WORKFLOW)
class WithdrawWorkflow:
    """Looks every few seconds whether somebody who said no is still waited for."""

    @workflow.run
    async def run(self) -> None:
        """Look, and withdraw, for good."""
        await workflow.execute_activity_method(
            OptOuts.withdraw_calls,
            task_queue=OUTBOUND_BOT,
            start_to_close_timeout=options.WORK_TIMEOUT,
            heartbeat_timeout=options.HEARTBEAT,
            retry_policy=options.WITHDRAWING,
            priority=Priority(priority_key=Turn.CONTROLS),
            summary="every opt-out that is not carried out",
        )
