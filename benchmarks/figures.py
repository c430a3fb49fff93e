"""What a figure is, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ANSWERED = ("--answer-rate", "0.4")
WARM_UP = 200
"""Leads of a task that is run before anything is measured, so that connections are open and code is warm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is run. ``leads`` of the usual task, of a ``small`` and of a ``large`` one."""

    leads: int = 10_000
    small: int = 1_000
    large: int = 100_000
    rounds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        target: what is to be reached, in words.
        met: whether it is; None where nothing is asked for.
        details: what it was read off.
    """

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)


def at_most(name: str, value: float, limit: float, unit: str, **details: Any) -> Figure:
    """A figure that shall not pass ``limit``."""
    return Figure(name=name, value=value, unit=unit, target=f"at most {limit:g}", met=value <= limit, details=details)


def at_least(name: str, value: float, limit: float, unit: str, **details: Any) -> Figure:
    """A figure that shall reach ``limit``."""
    return Figure(name=name, value=value, unit=unit, target=f"at least {limit:g}", met=value >= limit, details=details)
