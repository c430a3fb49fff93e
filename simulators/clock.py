"""Simulated time."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the simulator began, running `scale` times as fast as real time and moved ahead on request.

    Times shown to clients (`shown_ms`) are real ones: an event of the simulated second t is shown at the real moment at
    which it took place, so that clients that compare with their own clocks see nothing odd at any scale.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.advanced = 0.0
        self._began = time.monotonic()
        self._wall = time.time()

    def now(self) -> float:
        """Simulated seconds since the start."""
        return (time.monotonic() - self._began) * self.scale + self.advanced

    def advance(self, seconds: float) -> None:
        """Moves simulated time `seconds` (>= 0) ahead."""
        if seconds < 0:
            raise ValueError("time only moves ahead")
        self.advanced += seconds

    def shown_ms(self, moment: float) -> int:
        """Unix time in ms at which clients see something of the simulated second `moment`."""
        return int((self._wall + moment / self.scale) * 1000)

    def calendar(self, moment: float) -> float:
        """Unix time of the simulated second `moment` on the platform's own calendar: there a simulated day is a day, at
        whatever scale, and what was advanced has passed."""
        return self._wall + moment

    def on_calendar(self, unix: float) -> float:
        """Simulated second at which it is `unix` on the platform's own calendar."""
        return unix - self._wall

    def moment(self, unix: float) -> float:
        """Simulated second shown as the Unix time `unix` (seconds); negative when it lies before the start."""
        return (unix - self._wall) * self.scale

    def url_time(self) -> float:
        """Unix seconds by which signed URLs expire: real time plus all that was advanced."""
        return time.time() + self.advanced
