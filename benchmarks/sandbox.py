"""What a real sandbox costs: CPU a workflow task of the recorded histories, and a run that a worker takes up.

`python -m benchmarks.sandbox` replays them with `workflows` loaded anew for each run, and loaded once for all.
"""

import asyncio
import time
from pathlib import Path

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from worker import SANDBOX
from workflows.call_task import CallTaskWorkflow

HISTORIES = sorted(Path("tests/histories").glob("[!m]*.json"))
ROUNDS = 3


async def seconds(runner: SandboxedWorkflowRunner, histories: list[WorkflowHistory]) -> float:
    """CPU of one replay of all of them."""
    replayer = Replayer(workflows=[CallTaskWorkflow], workflow_runner=runner)
    before = time.process_time()
    for history in histories:
        await replayer.replay_workflow(history)
    return time.process_time() - before


async def main() -> None:
    """Print both, best of some rounds."""
    histories = [WorkflowHistory.from_json(path.stem, path.read_text("utf-8")) for path in HISTORIES]
    tasks = sum(event.HasField("workflow_task_completed_event_attributes") for one in histories for event in one.events)
    shared = SandboxedWorkflowRunner(restrictions=SANDBOX.restrictions.with_passthrough_modules("workflows"))
    for name, runner in (("loaded once", shared), ("loaded anew", SANDBOX)):
        best = min([await seconds(runner, histories) for _ in range(ROUNDS)])
        print(f"{name}: {best / tasks * 1000:.2f} ms a workflow task, {best / len(histories) * 1000:.1f} ms a run")


if __name__ == "__main__":
    asyncio.run(main())
