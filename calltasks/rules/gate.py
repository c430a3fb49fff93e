"""Who may be called (rules 11.1, 11.7, 11.8): what decides about one number, and what a start may ask for."""

from __future__ import annotations

from dataclasses import dataclass

NO_NUMBER = "no_number"
"""What the row has for a phone number is none."""
OPTED_OUT = "opted_out"
"""The organisation has a standing opt-out of the number."""
CALLED_LATELY = "called_lately"
"""Another campaign of the organisation has called the number within the days that the task's options name."""
CALLED_OFTEN = "called_often"
"""Other campaigns have called it as often already, in the days that the options name, as anybody is to be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How rarely a task's options want people called; 0 is no limit.

    Attributes:
        not_called_within: days in which no other campaign may have called.
        at_most: calls in ``in_days`` days, the one that is about to be made among them.
    """

    not_called_within: int = 0
    at_most: int = 0
    in_days: int = 0

    @property
    def counts(self) -> bool:
        """Calls at most in so many days."""
        return bool(self.at_most and self.in_days)

    @property
    def any(self) -> bool:
        """Earlier calls matter."""
        return bool(self.not_called_within) or self.counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the organisation knows of a number: whether it is opted out, and calls of other campaigns within
    ``not_called_within`` and within ``in_days``."""

    opted_out: bool = False
    lately: int = 0
    often: int = 0


NOTHING = Known()


def reason(phone: str, known: Known, limits: Limits) -> str:
    """Why a number (E.164; ``""`` for none) is not called; ``""``: it is."""
    if not phone:
        return NO_NUMBER
    if known.opted_out:
        return OPTED_OUT
    if limits.not_called_within and known.lately:
        return CALLED_LATELY
    if limits.counts and known.often >= limits.at_most:
        return CALLED_OFTEN
    return ""
