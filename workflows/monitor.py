"""``MonitorWorkflow``: one check of the Schedule ``call-task-monitor`` (rule 9)."""

from __future__ import annotations

from temporalio import workflow

from activities.monitoring import Checked, Monitoring
from calltasks import options
from calltasks.names import CALL_TASKS, MONITOR_WORKFLOW


@workflow.defn(name=MONITOR_WORKFLOW)
class MonitorWorkflow:
    """Takes up every open task that nothing is working on."""

    @workflow.run
    async def run(self, every: bool = False) -> Checked:
        """Check once; ``every``: those too that are at rest because nothing of them was called."""
        return await workflow.execute_activity_method(
            Monitoring.take_up_tasks,
            every,
            task_queue=CALL_TASKS,
            start_to_close_timeout=options.WORK_TIMEOUT,
            heartbeat_timeout=options.HEARTBEAT,
            retry_policy=options.THREE_TRIES,
            summary="every task of type 2 or 3",
        )
