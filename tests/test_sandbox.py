"""What would make a replay differ is refused, and no run sees what another one has done to a module."""

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

import worker
from tests.careless_workflows import CARELESS, Careless, Looking
from workflows import pacing


@pytest.mark.parametrize("what", CARELESS)
async def test_a_workflow_that_asks_for_what_differs_each_time_is_refused(temporal_client: Client, what: str) -> None:
    async with Worker(
        temporal_client,
        task_queue="careless",
        workflows=[Careless],
        workflow_runner=worker.SANDBOX,
        workflow_failure_exception_types=[Exception],
    ):
        with pytest.raises(WorkflowFailureError) as failed:
            await temporal_client.execute_workflow(Careless.run, what, id=f"careless: {what}", task_queue="careless")
    assert "Cannot access" in str(failed.value.cause)


async def test_every_run_has_modules_of_its_own(temporal_client: Client) -> None:
    async with Worker(temporal_client, task_queue="looking", workflows=[Looking], workflow_runner=worker.SANDBOX):
        seen = [
            await temporal_client.execute_workflow(Looking.run, id=f"looking-{n}", task_queue="looking")
            for n in range(2)
        ]
    assert seen == [pacing.GROWTH + 1] * 2
