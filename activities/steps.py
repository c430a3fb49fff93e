"""The steps of a row's journey once it has its job id. A new one is declared beside its activity and named here."""

from typing import Any

from activities.conversations import CONVERSATIONS
from activities.follow_ups import FOLLOW_UP
from activities.recordings import RECORDING
from calltasks.steps import Step

STEPS: tuple[Step[Any, Any], ...] = (CONVERSATIONS, FOLLOW_UP, RECORDING)
