"""What is told of follow-ups (rule 12.2), in the transaction that writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pymysql.cursors import Cursor

from calltasks.database.tables.events import ANALYSIS_FAILED, OPTED_OUT, REWRITTEN, WRITTEN, Event, emit

if TYPE_CHECKING:
    from calltasks.database.tables.analyses import FollowUp
    from calltasks.database.tables.opt_outs import OptOut


def tell_follow_ups(
    cursor: Cursor,
    task_id: int,
    given: Sequence[tuple[int, FollowUp]],
    request_id: str,
    leads: Mapping[int, Any],
    *,
    again: bool = False,
) -> None:
    """Rows were given these follow-ups (by id), or ``again`` new judgements; ``leads``: whose the rows are."""
    emit(
        cursor,
        [
            Event(
                kind=REWRITTEN if again else WRITTEN,
                task_id=task_id,
                fact=(one.list_id, one.call_job_id, request_id if again else follow_id),
                data=_call(one)
                | {
                    "leads_id": leads[one.list_id] if isinstance(leads[one.list_id], int) else str(leads[one.list_id]),
                    "leads_follow_id": follow_id,
                    "outcome": one.outcome,
                    "is_interested": one.is_interested,
                    "next_follow_time": None if one.next_follow_time is None else one.next_follow_time.isoformat(" "),
                },
            )
            for follow_id, one in given
        ],
    )
    tell_failures(cursor, task_id, [one for _, one in given if one.outcome == "failed"], request_id)


def tell_failures(cursor: Cursor, task_id: int, failed: Sequence[FollowUp], request_id: str) -> None:
    """The model has failed for good at these calls."""
    emit(
        cursor,
        [
            Event(
                kind=ANALYSIS_FAILED,
                task_id=task_id,
                fact=(one.list_id, one.call_job_id, request_id),
                data=_call(one) | {"error_code": one.error_code},
            )
            for one in failed
        ],
    )


def tell_opt_outs(cursor: Cursor, task_id: int, entered: Sequence[OptOut]) -> None:
    """Customers refuse further calls: their numbers were entered into the organisation's opt-outs."""
    emit(
        cursor,
        [
            Event(
                kind=OPTED_OUT,
                task_id=task_id,
                # A person may lift an entry, and another word on the same call make a new one.
                fact=(one.list_id, one.call_job_id, one.id),
                data={"list_id": one.list_id, "call_job_id": one.call_job_id, "opt_out_id": one.id},
            )
            for one in entered
        ],
    )


def _call(one: FollowUp) -> dict[str, Any]:
    return {"list_id": one.list_id, "call_job_id": one.call_job_id}
