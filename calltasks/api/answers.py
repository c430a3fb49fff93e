"""The envelope that every answer wears (CONTRACT, HTTP)."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

NO_JOB_ID = 4009
"""Code: none of the task's calls has a job id yet."""
PLATFORM_FAILED = 5003
"""Code: the platform, or the way to it, failed."""


class Answer(JSONResponse):
    """JSON in UTF-8, whatever half characters the platform's answers hold."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def success(data: Any, message: str) -> Answer:
    """The answer of a request that was carried out."""
    return Answer({"status": "success", "code": 200, "message": message, "data": data})


def failure(status: int, message: str, *, code: int | None = None, **more: Any) -> Answer:
    """The answer of a request that was not; ``code`` is the HTTP status unless it says more than that."""
    return Answer({"status": "error", "code": code or status, "message": message, **more}, status_code=status)
