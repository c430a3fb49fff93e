"""The one run that withdraws calls of people who said no: who needs it sees that it is there."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from calltasks.names import CALL_TASKS, WITHDRAW_WORKFLOW, WITHDRAWALS


async def keep_withdrawing(client: Client) -> None:
    """Start it, unless it runs.

    Raises:
        RPCError: Temporal does not take it.
    """
    await client.start_workflow(
        WITHDRAW_WORKFLOW,
        id=WITHDRAWALS,
        task_queue=CALL_TASKS,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
