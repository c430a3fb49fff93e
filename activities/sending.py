"""One request that makes the platform dial, and what its answer says (rule 2.5)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from activities.claims import Claim
from calltasks.errors import PassingError, PermanentError
from calltasks.platform.errors import SERVICE, AccessRefusedError, NotFoundError
from calltasks.platform.send_deadline import TooLateError
from calltasks.platform.session import PlatformSession, contact_json
from calltasks.rules.pairing import reference

Refusal = tuple[Claim, PermanentError]


@dataclass(slots=True)
class Sent:
    """What became of some batches.

    Attributes:
        accepted, released: their ids: taken, not sent.
        short: ids of those that were taken in part, and how often they were sent in vain by now.
        refused: one of their contacts may be why; ``lost``: whether they were taken is not known.
        open: ids of those without an answer, and how many seconds to wait before they may be sent again.
        rejected: contacts that were refused alone, by code; ``suppressed``: rows that were left out since, by reason.
    """

    accepted: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    short: dict[int, int] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    lost: list[Claim] = field(default_factory=list)
    open: dict[int, float] = field(default_factory=dict)
    assigned: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    suppressed: Counter[str] = field(default_factory=Counter)
    error: str = ""


async def send_batch(
    session: PlatformSession, task_id: int, group_id: str, claim: Claim, sent: Sent, send_before: float
) -> None:
    """Send one batch, and tell what became of it.

    Raises:
        PermanentError: the platform refuses the request, whoever its contacts are.
    """
    contacts = [
        contact_json(
            phone=row.number,
            name=row.name,
            reference_id=reference(row.reference_id, task_id, row.leads_id),
        )
        for row in claim.rows
    ]
    try:
        jobs = await session.assign(group_id, contacts, send_before=send_before)
    except TooLateError:
        sent.released.append(claim.id)
    except PermanentError as error:
        if error.service != SERVICE or isinstance(error, AccessRefusedError | NotFoundError):
            sent.released.append(claim.id)
            raise
        sent.refused.append((claim, error))
    except PassingError as error:
        sent.error = str(error)
        if not error.sent or error.service != SERVICE:
            sent.released.append(claim.id)
        else:
            sent.lost.append(claim)
    else:
        # Fewer jobs than contacts: which of them were taken only the group itself can tell, once it lists them.
        if jobs >= len(contacts):
            sent.accepted.append(claim.id)
        else:
            sent.short[claim.id] = claim.tries + 1
        sent.assigned += min(jobs, len(contacts))
