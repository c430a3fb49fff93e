"""By what operators find and sort runs in the Temporal UI, where the namespace has it registered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from activities.tasks import Review, Task
from calltasks.names import ANALYSIS_FAILED, ORGANIZATION, STALLED_SINCE, TASK, TASK_TYPE, UNFINISHED


class SearchAttributes:
    """What this run is found by; written only when it changes, one event a time."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._written: dict[str, Any] = {}

    def show(self, review: Review, stalled_since: datetime | None) -> None:
        """Write what differs from what was written last.

        Args:
            review: how the task stands.
            stalled_since: since when nothing moved, if looks have found nothing new for a while.
        """
        values: list[tuple[SearchAttributeKey[Any], Any]] = [
            (ORGANIZATION, self._task.organization_id),
            (TASK, self._task.task_id),
            (TASK_TYPE, str(review.task_type)),
            (UNFINISHED, review.rows.called - review.rows.finished),
            (ANALYSIS_FAILED, review.counts["analysis_failed"]),
            (STALLED_SINCE, stalled_since),
        ]
        changes = [
            (key, value)
            for key, value in values
            if key.name in self._task.search_attributes and self._written.get(key.name) != value
        ]
        if changes:
            self._written.update((key.name, value) for key, value in changes)
            workflow.upsert_search_attributes(
                [key.value_unset() if value is None else key.value_set(value) for key, value in changes]
            )
