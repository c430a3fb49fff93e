"""Work that changed nothing waits before it is done again, longer each time, whatever the reason (rule 14.6)."""

from __future__ import annotations

from temporalio import workflow

from activities.tasks import Review
from calltasks.options import Options

GROWTH = 1.5


def grown(first: float, rounds: int, *, longest: float) -> float:
    """Seconds to wait after so many rounds in a row that changed nothing: ``first`` after none and after one, then
    longer each time, up to ``longest``, and never less than ``first``."""
    return min(first * GROWTH ** min(max(rounds - 1, 0), 30), max(longest, first))


class Pace:
    """The pace at which reviews hand out one kind of work.

    Each kind has its own: that another one gets on is no reason to do this one again.

    A round is: a review found work, it was handed out, it is done. If the next review finds the same work on a task
    that stands the same, the round has changed nothing: the next one begins ``poll_min`` after it did, then later and
    later, up to ``poll_max``. What was tried and put off by its own retry is not the same work.

    Attributes:
        until: workflow time before which nothing is handed out.
    """

    def __init__(self) -> None:
        self._seen: object = None
        self._unchanged = 0
        self._began = 0.0
        self.until = 0.0

    def admits(self, seen: object, options: Options) -> bool:
        """Whether what a review has seen (the standing and the work, to be compared) is handed out now; None: no work,
        nothing to wait for."""
        now = workflow.time()
        if seen is None:
            self.until = 0.0
            return True
        if seen != self._seen:
            self._seen, self._unchanged, self.until = seen, 0, 0.0
        elif not self.until:
            self._unchanged += 1
            self.until = self._began + grown(options.poll_min, self._unchanged, longest=options.poll_max)
        if now < self.until:
            return False
        self._began, self.until = now, 0.0
        return True

    def reset(self) -> None:
        """Somebody asks for it, or the platform tells of a change."""
        self._seen, self._unchanged, self.until = None, 0, 0.0


def standing(review: Review) -> tuple[int, ...]:
    """What asking for calls changes, if it changes anything. What becomes of other calls after that is no reason to
    ask again."""
    return review.rows.called, review.rows.unsettled, review.rows.finished
