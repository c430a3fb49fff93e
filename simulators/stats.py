"""What was asked of the simulators: counts, rates, dials."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from simulators.world import World


class Peak:
    """The most calls that ever fell into one sliding window of `seconds` (real time)."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque()
        self.value = 0

    def add(self, moment: float) -> None:
        self._times.append(moment)
        while self._times[0] <= moment - self._seconds:
            self._times.popleft()
        self.value = max(self.value, len(self._times))


class Limiter:
    """Lets at most `limit` calls pass in any window of `seconds`; 0 lets all pass."""

    def __init__(self, limit: float, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._times: deque[float] = deque()

    def passes(self, moment: float) -> bool:
        if self._limit <= 0:
            return True
        while self._times and self._times[0] <= moment - self._seconds:
            self._times.popleft()
        if len(self._times) >= self._limit:
            return False
        self._times.append(moment)
        return True


class Stats:
    """Counts since the start or the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.calls: dict[str, Counter[str]] = {}
        self.input_tokens = 0
        self.output_tokens = 0
        self.questions: Counter[tuple[Any, ...]] = Counter()
        self._platform = Peak(1.0)
        self._model = (Peak(1.0), Peak(60.0))
        self._seconds: dict[str, Counter[int]] = {"platform": Counter(), "model": Counter()}
        self._cpu = time.process_time()
        self._began = time.monotonic()

    def arrived(self, *, model: bool, moment: float) -> None:
        """A call has come in at `moment` of the monotonic clock, whatever becomes of it."""
        if model:
            for peak in self._model:
                peak.add(moment)
        else:
            self._platform.add(moment)
        self._seconds["model" if model else "platform"][int(moment - self._began)] += 1

    def ended(self, action: str, outcome: str) -> None:
        """A call of `action` ("model", "recording" or an action's name) was answered: ok, an error code, a fault."""
        self.calls.setdefault(action, Counter())[outcome] += 1

    def asked(self, model: str, response_format: Any, thinking: Any) -> None:
        """A question was put to a model by name, whatever becomes of it; None for what it did not say."""
        form = response_format.get("type") if isinstance(response_format, dict) else None
        self.questions[model, str(form) if form else None, thinking if isinstance(thinking, bool) else None] += 1

    def report(self, world: World, *, series: bool = False) -> dict[str, Any]:
        """Everything as one JSON object; `series` adds the calls of each second since the reset."""
        twice = [
            {"group": group.id, "group_name": group.name, "reference_id": reference, "dials": dials}
            for group in world.groups.values()
            for reference, dials in group.dials.items()
            if dials > 1
        ]
        names = Counter(group.name for group in world.groups.values())
        totals = {action: sum(count.values()) for action, count in self.calls.items()}
        report: dict[str, Any] = {
            "calls": {action: dict(count) for action, count in sorted(self.calls.items())},
            "platform_calls": sum(totals.values()) - totals.get("model", 0) - totals.get("recording", 0),
            "model_calls": totals.get("model", 0),
            "platform_peak_1s": self._platform.value,
            "model_peak_1s": self._model[0].value,
            "model_peak_60s": self._model[1].value,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "questions": [
                {"model": model, "response_format": form, "enable_thinking": thinking, "calls": count}
                for (model, form, thinking), count in self.questions.items()
            ],
            "groups": len(world.groups),
            "groups_of_one_name": sorted(name for name, count in names.items() if count > 1),
            "jobs": len(world.jobs),
            "dialled_twice": twice,
            "cpu_seconds": round(time.process_time() - self._cpu, 3),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        if series:
            report["per_second"] = {name: _filled(count) for name, count in self._seconds.items()}
        return report


def _filled(count: Counter[int]) -> list[int]:
    return [count[second] for second in range(max(count, default=-1) + 1)]
