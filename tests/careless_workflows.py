"""Workflows that do what none may, for `test_sandbox.py`; loaded by the sandbox."""

import random
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from temporalio import workflow

from workflows import pacing

CARELESS: dict[str, Callable[[], object]] = {
    "the clock": time.time,
    "the date": lambda: datetime.now(),
    "chance": random.random,
    "a file": lambda: Path(__file__).read_text("utf-8"),
}


@workflow.defn
class Careless:
    """Does one of them."""

    @workflow.run
    async def run(self, what: str) -> str:
        return str(CARELESS[what]())


@workflow.defn
class Looking:
    """Looks at the modules that a workflow is made of."""

    @workflow.run
    async def run(self) -> Any:
        pacing.GROWTH += 1
        return pacing.GROWTH
