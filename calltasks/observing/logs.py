"""Log lines on stderr: as text, or each as a JSON object with the ids of its task, run, activity and request."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from temporalio import activity, workflow

from calltasks.names import task_of

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
IDS = {
    "workflow_id": "workflow_id",
    "workflow_run_id": "run_id",
    "run_id": "run_id",
    "workflow_type": "workflow_type",
    "activity_type": "activity_type",
    "activity_id": "activity_id",
    "attempt": "attempt",
}
"""What the SDK calls them, and what a line does."""


class JsonFormatter(logging.Formatter):
    """One object a record: ``time`` (UTC), ``level``, ``logger``, ``message``, and the ids that it has."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        details = getattr(record, "temporal_activity", None) or getattr(record, "temporal_workflow", None) or {}
        line |= {IDS[name]: value for name, value in details.items() if name in IDS}
        if request := getattr(record, "request_id", ""):
            line["request_id"] = request
        if task_id := task_of(line.get("workflow_id", "")):
            line["task_id"] = task_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(log_format: str, text: str = TEXT, *filters: Callable[[logging.LogRecord], bool]) -> None:
    """Log to stderr as ``LOG_FORMAT`` says: ``text``, in this format, or ``json``; filters may add to records."""
    handler = logging.StreamHandler(sys.stderr)
    for each in filters:
        handler.addFilter(each)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
        # In a field of their own, the ids need not be part of the message.
        activity.logger.activity_info_on_message = False
        workflow.logger.workflow_info_on_message = False
    else:
        handler.setFormatter(logging.Formatter(text))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # A line for every call of the model would drown the rest.
    logging.getLogger("httpx").setLevel(logging.WARNING)
