"""Faults on request: what goes wrong, where, how often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_ANYWHERE = ("status_500", "html", "empty", "reset", "hang")
PLATFORM_KINDS = frozenset(
    {
        *(*_ANYWHERE, "status_503", "success_false", "wrong_shape", "throttle", "throttle_plain", "permanent"),
        *("lost_answer", "lost_late", "partial", "stale", "shuffle", "missing", "vanish", "flip"),
    }
)
MODEL_KINDS = frozenset(
    {
        *(*_ANYWHERE, "status_429", "timeout", "content_filter", "invalid_key", "arrears", "unpaid", "free_quota"),
        *("thinking", "invalid_json", "fenced_json", "wrapped", "unfinished", "wrong_type", "fickle", "enormous"),
        *("past_time", "nonsense_time"),
    }
)
RECORDING_KINDS = frozenset({"status_500", "status_403", "truncated", "empty", "reset", "hang"})
_KINDS = {"model": MODEL_KINDS, "recording": RECORDING_KINDS}
_LISTINGS = frozenset({"QueryJobsWithResult", "ListJobs"})
_ONLY_FOR = {
    "partial": frozenset({"AssignJobs"}),
    "lost_late": frozenset({"AssignJobs", "CreateJobGroup"}),
    "stale": _LISTINGS,
    "shuffle": _LISTINGS,
    "missing": _LISTINGS,
    "vanish": _LISTINGS,
    "flip": _LISTINGS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail.

    `target` is an action's name, "*" for every action of the platform, "model", or "recording" (the download of the
    audio itself). It strikes with probability `rate`, or the first `count` matching calls when `count` is set.
    `seconds` is how long a hang, a throttling wait, a lag or a disappearance lasts, `code` the error code of
    success_false and permanent, or what wrapped puts around "{answer}". Kinds that only make sense for certain actions
    (partial: AssignJobs; lost_late: also CreateJobGroup; stale, shuffle, missing, vanish, flip: listings) spare others.
    """

    target: str
    kind: str
    rate: float = 1.0
    count: int | None = None
    seconds: float = 30.0
    code: str = ""

    def __post_init__(self) -> None:
        kinds = _KINDS.get(self.target, PLATFORM_KINDS)
        if self.kind not in kinds:
            raise ValueError(f"unknown kind {self.kind!r} for {self.target!r}; known: {', '.join(sorted(kinds))}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate {self.rate} is not within 0..1")


class Faults:
    """The faults in force. Which calls they strike depends on the seed and on the order of the calls alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._faults: list[Fault] = []
        self._random: list[random.Random] = []
        self._struck: list[int] = []
        self.counts: Counter[str] = Counter()

    def replace(self, faults: Iterable[Fault]) -> None:
        """Puts these faults in the place of all former ones."""
        self._faults = list(faults)
        self._random = [random.Random(f"{self._seed}|{index}|{fault}") for index, fault in enumerate(self._faults)]
        self._struck = [0] * len(self._faults)

    def load(self, records: list[dict[str, Any]]) -> None:
        """As `replace`, from JSON objects with the fields of Fault. Raises TypeError or ValueError on others."""
        self.replace([Fault(**record) for record in records])

    def strike(self, target: str) -> Fault | None:
        """The fault that strikes this call, if any; at most one does."""
        for index, fault in enumerate(self._faults):
            if fault.target != target and (fault.target != "*" or target in _KINDS):
                continue
            if target not in _ONLY_FOR.get(fault.kind, (target,)):
                continue
            if self._hits(index, fault):
                self._struck[index] += 1
                self.counts[f"{target}:{fault.kind}"] += 1
                return fault
        return None

    def _hits(self, index: int, fault: Fault) -> bool:
        if fault.count is not None and self._struck[index] >= fault.count:
            return False
        return fault.rate >= 1 or self._random[index].random() < fault.rate
