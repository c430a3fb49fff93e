"""What programs say: the lines that they log, and what Temporal keeps of their runs."""

import base64
import logging
from typing import Any

from temporalio.client import WorkflowHistory


class LogLines(logging.Handler):
    """Every line that anything logs while the block lasts, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def __enter__(self) -> "LogLines":
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.INFO)
        root.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)


def decoded(history: WorkflowHistory) -> str:
    """A history as text, every payload decoded."""
    texts: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "data" and isinstance(inner, str):
                    texts.append(base64.b64decode(inner).decode("utf-8", "replace"))
                else:
                    collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        else:
            texts.append(str(value))

    collect(history.to_json_dict())
    return "\n".join(texts)
