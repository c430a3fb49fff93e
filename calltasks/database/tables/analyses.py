"""Our ledger of judgements, ``call_analyses``, and what became of a row's follow-up since we wrote it (rules 6, 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, derived, flat, look_up, marks
from calltasks.database.tables.ledger import GROUP, OF_TASK, SAME_CALL, Entry, digest
from calltasks.database.tables.ledger import entries as ledger_entries
from calltasks.database.tables.needs import final_status, follow_id, interest_of
from calltasks.names import FAILED, SUCCEEDED

CALLED_AT = (
    "COALESCE("
    + ", ".join(
        f"IF(TO_DAYS(l.{column}) IS NULL, NULL, l.{column})" for column in ("updated_time", "planed_time", "call_time")
    )
    + ")"
)
"""The time of a call, wall clock; a zero date, or one with a zero month or day, is none."""

STEP = "@@auto_increment_increment"
"""Between the ids of rows that one statement inserts; where several servers write, it is not 1."""


SECOND = "second"
"""Outcome of what another model makes of a call, for people to compare."""


def moment(value: object) -> datetime | None:
    """A time as the driver gives it; what is none (``2026-00-00`` comes as text) is None."""
    return value if isinstance(value, datetime) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """What a row's follow-up shall say. Times are wall clock; ``outcome`` as in ``call_analyses``, or kept.

    Attributes:
        answer_id: of the answer of the model that it comes from, which is in the ledger already; or empty.
        do_not_call: the customer's own sentence that refuses further calls, or empty.
        wrong_number: the number is not the lead's.
    """

    list_id: int
    call_job_id: str
    outcome: str
    is_interested: int
    leads_remark: str
    next_follow_time: datetime | None = None
    evidence: str = ""
    do_not_call: str = ""
    wrong_number: bool = False
    model: str = ""
    prompt_version: str = ""
    transcript_hash: str = ""
    characters: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    error_code: str = ""
    answer_id: str = ""


def default_remark(call_status: str) -> str:
    """What the follow-up of a call without transcript says (rule 6.4)."""
    remarks = {FAILED: "呼叫失败；", SUCCEEDED: "外呼已完成，但暂无通话内容；"}
    status = final_status(call_status) or call_status
    return remarks.get(status, f"外呼状态：{status}；")


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """How a row's follow-up stands in the CRM. Times are wall clock.

    Attributes:
        call_job_id: of the row's call.
        follow_id: 0 if the row never had a follow-up.
        linked: whether the row points to it; a lost link is in our ledger still.
        change: what a person did since we wrote it: ``edited`` (remark, next time, interest, or its lead),
            ``deleted``, or ``""``.
        step: between the ids of follow-ups that are inserted at once.
    """

    list_id: int
    leads_id: Any
    call_job_id: str
    is_interested: int | None
    follow_id: int
    linked: bool
    leads_remark: str
    next_follow_time: datetime | None
    change: str
    step: int

    def action(self, outcome: str, *, override: bool) -> str:
        """What a new judgement does to it: ``create``, ``update``, ``keep``, or nothing (``failed``)."""
        if not self.follow_id:
            return "create"
        if outcome == "failed":
            # It is written down, but it does not replace what a customer's call was judged to say.
            return "failed"
        if self.change and not override:
            return "keep"
        return "create" if self.change == "deleted" else "update"


def present(cursor: Cursor, ids: Sequence[int], *, lock: bool = False) -> dict[int, Present]:
    """How the follow-ups of these rows stand, by row, in order of id.

    A follow-up that our ledger does not know (it is older than our time) never counts as changed.

    Args:
        cursor: inside a transaction, if ``lock``.
        ids: of ``leads_task_list``.
        lock: keep rows and follow-ups from being changed until the transaction ends.
    """
    if not ids:
        return {}
    some, update = marks(len(ids)), " FOR UPDATE" if lock else ""
    cursor.execute(
        f"SELECT l.id, l.leads_id, l.is_interested, {follow_id()}, COALESCE(l.call_job_id, ''), {STEP}"
        f" FROM leads_task_list l WHERE l.id IN ({some}) ORDER BY l.id{update}",
        ids,
    )
    rows = cursor.fetchall()
    ledger = ledger_entries(cursor, ids)
    follow_ids = {int(row[0]): _follow_id(row, ledger) for row in rows}
    there = _follow_ups(cursor, sorted({id_ for id_ in follow_ids.values() if id_}), update)
    found = {}
    for row in rows:
        id_, interest = int(row[0]), interest_of(row[2])
        follow_up, entry = there.get(follow_ids[id_]), ledger.get(int(row[0]))
        _, remark, next_time = follow_up or ("", "", None)
        found[id_] = Present(
            list_id=id_,
            leads_id=row[1],
            call_job_id=str(row[4]),
            is_interested=interest,
            follow_id=follow_ids[id_],
            linked=bool(row[3]),
            leads_remark=remark,
            next_follow_time=next_time,
            change=_change(follow_up, str(row[1]), interest, entry, follow_ids[id_]) if follow_ids[id_] else "",
            step=int(row[5]),
        )
    return found


def _follow_id(row: tuple[Any, ...], ledger: dict[int, Entry]) -> int:
    if row[3]:
        return int(row[3])
    entry = ledger.get(int(row[0]))
    return entry.follow_id if entry else 0


def _follow_ups(cursor: Cursor, ids: Sequence[int], update: str) -> dict[int, tuple[str, str, Any]]:
    if not ids:
        return {}
    cursor.execute(
        "SELECT id, leads_id, leads_remark, next_follow_time FROM dcc_leads_follow"
        f" WHERE id IN ({marks(len(ids))}) ORDER BY id{update}",
        ids,
    )
    return {int(row[0]): (str(row[1]), str(row[2] or ""), row[3]) for row in cursor.fetchall()}


def _change(
    there: tuple[str, str, Any] | None, lead: str, interest: int | None, written: Entry | None, follow_id: int
) -> str:
    # One of another lead is not this call's any more, whatever the row points to.
    if there is None or there[0] != lead:
        return "deleted"
    if written is None:
        return ""
    # An interest that is gone is a lost one, not a person's word; another follow-up of the lead is one.
    ours = written.follow_id == follow_id and digest(*there[1:]) == written.stored
    return "" if ours and interest in (None, written.is_interested) else "edited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis(FollowUp):
    """One judgement of a call, as the ledger keeps it. ``created_at`` is UTC."""

    id: int
    request_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHistory:
    """A call, its judgements in the order in which they were made, and how its follow-up stands."""

    call_job_id: str
    task_id: int
    list_id: int
    call_status: str
    called_at: datetime | None
    follow_up: Present
    analyses: list[Analysis]


def history(cursor: Cursor, call_job_id: str) -> CallHistory | None:
    """The judgements of a call; None if no row has this job id."""
    look_up(
        cursor,
        f"SELECT l.task_id, l.id, COALESCE(l.call_status, ''), {CALLED_AT} FROM leads_task_list l"
        " WHERE {job} = %s ORDER BY l.id LIMIT 1",
        (call_job_id,),
        job="l.call_job_id",
    )
    row = cursor.fetchone()
    if row is None:
        return None
    list_id = int(row[1])
    return CallHistory(
        call_job_id=call_job_id,
        task_id=int(row[0]),
        list_id=list_id,
        call_status=str(row[2]),
        called_at=moment(row[3]),
        follow_up=present(cursor, [list_id])[list_id],
        analyses=judged(cursor, list_id, call_job_id),
    )


def judged(cursor: Cursor, list_id: int, call_job_id: str) -> list[Analysis]:
    """The judgements of a row's call, in the order in which they were made."""
    names = [field.name for field in fields(Analysis)]
    cursor.execute(
        f"SELECT {', '.join(names)} FROM call_analyses WHERE list_id = %s AND call_job_id = %s ORDER BY id",
        (list_id, call_job_id),
    )
    found = [Analysis(**dict(zip(names, values, strict=True))) for values in cursor.fetchall()]
    return [replace(one, wrong_number=bool(one.wrong_number)) for one in found]


_ENTRY = (
    *("answer_id", "list_id", "call_job_id", "request_id", "outcome", "is_interested"),
    *("leads_remark", "next_follow_time", "evidence", "do_not_call", "wrong_number", "model"),
    *("prompt_version", "transcript_hash", "characters", "input_tokens", "output_tokens", "error_code"),
    *("created_at", "settled_at"),
)


def record(
    cursor: Cursor,
    task_id: int,
    judgements: Sequence[FollowUp],
    request_id: str,
    *,
    now_utc: datetime,
    settled: datetime | None = None,
) -> None:
    """Add judgements to the ledger; one that is there already (by its ``answer_id``) stays as it is."""
    rows = [
        (
            *(f.answer_id or None, f.list_id, f.call_job_id, request_id, f.outcome),
            *(f.is_interested, f.leads_remark, f.next_follow_time, f.evidence, f.do_not_call, f.wrong_number),
            *(
                f.model,
                f.prompt_version,
                f.transcript_hash,
                f.characters,
                f.input_tokens,
                f.output_tokens,
                f.error_code,
                now_utc,
                settled,
            ),
        )
        for f in judgements
    ]
    for part in bulks(rows):
        cursor.execute(
            f"INSERT INTO call_analyses (task_id, job_group_id, {', '.join(_ENTRY)})"
            f" SELECT %s, {GROUP}, v.* FROM ({derived(_ENTRY, len(part))}) v"
            " ON DUPLICATE KEY UPDATE outcome = call_analyses.outcome",
            (task_id, task_id, *flat(part)),
        )


def check_writable(cursor: Cursor) -> None:
    """Fail where the ledger takes nothing (no right, read-only): before anything is asked, not after."""
    columns = ", ".join(("task_id", "job_group_id", *_ENTRY))
    cursor.execute(f"INSERT INTO call_analyses ({columns}) SELECT {columns} FROM call_analyses WHERE FALSE")


def settle(cursor: Cursor, task_id: int, judgements: Sequence[FollowUp], request_id: str, *, now_utc: datetime) -> None:
    """Write down, in the transaction that writes the CRM, what became of judgements."""
    by_outcome: dict[str, list[str]] = {}
    for judgement in judgements:
        if judgement.answer_id:
            by_outcome.setdefault(judgement.outcome, []).append(judgement.answer_id)
    for outcome, answers in by_outcome.items():
        cursor.execute(
            "UPDATE call_analyses SET outcome = %s, settled_at = COALESCE(settled_at, %s)"
            f" WHERE answer_id IN ({marks(len(answers))})",
            (outcome, now_utc, *answers),
        )
    others = [judgement for judgement in judgements if not judgement.answer_id]
    record(cursor, task_id, others, request_id, now_utc=now_utc, settled=now_utc)


def answers(cursor: Cursor, ids: Sequence[int], request_id: str) -> list[FollowUp]:
    """What the model has answered about these rows' calls, for first follow-ups or for this request, oldest first."""
    if not ids:
        return []
    names = [field.name for field in fields(FollowUp)]
    cursor.execute(
        f"SELECT {', '.join(f'a.{name}' for name in names)} FROM call_analyses a"
        f" JOIN leads_task_list l ON l.id = a.list_id AND {SAME_CALL.format('a')}"
        f" WHERE a.list_id IN ({marks(len(ids))}) AND a.request_id = %s AND a.outcome IN ('analysed', 'kept')"
        " AND a.answer_id IS NOT NULL ORDER BY a.id",
        (*ids, request_id),
    )
    found = [FollowUp(**dict(zip(names, values, strict=True))) for values in cursor.fetchall()]
    return [replace(one, outcome="analysed", wrong_number=bool(one.wrong_number)) for one in found]


def spent_tokens(cursor: Cursor, task_id: int, request_id: str = "") -> int:
    """Tokens that a re-analysis, or (without one) all of a task, has cost, unreadable answers included, second opinions
    not."""
    return _spent(cursor, task_id, f"(%s = '' OR request_id = %s) AND outcome <> '{SECOND}'", request_id, request_id)


def spent_on_second(cursor: Cursor, task_id: int) -> int:
    """Tokens that second opinions have cost a task."""
    return _spent(cursor, task_id, f"outcome = '{SECOND}'")


def _spent(cursor: Cursor, task_id: int, condition: str, *values: str) -> int:
    cursor.execute(
        "SELECT COALESCE(SUM(input_tokens + output_tokens), 0) FROM call_analyses a"
        f" WHERE {OF_TASK.format('a')} AND {condition}",
        (task_id, *values),
    )
    row = cursor.fetchone()
    return int(row[0]) if row else 0
