"""Our ledger of judgements, ``call_analyses``, and what became of a row's follow-up since we wrote it (SPEC 6, 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

from pymysql.cursors import Cursor

from clients.database import marks
from clients.tables.needs import final_status

CALLED_AT = (
    "COALESCE("
    + ", ".join(
        f"IF(TO_DAYS(l.{column}) IS NULL, NULL, l.{column})" for column in ("updated_time", "planed_time", "call_time")
    )
    + ")"
)
"""The time of a call, wall clock; a zero date, or one with a zero month or day, is none."""


def default_remark(call_status: str) -> str:
    """What the follow-up of a call without transcript says (SPEC 6)."""
    remarks = {"Failed": "呼叫失败；", "Succeeded": "外呼已完成，但暂无通话内容；"}
    status = final_status(call_status) or call_status
    return remarks.get(status, f"外呼状态：{status}；")


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """Which of the named calls a re-analysis takes; what is not given does not count.

    Attributes:
        interest: ``is_interested`` as it is now.
        since, until: first and last day of the call, both included, wall clock.
        prompt_version: of the last judgement that was made of the call.
    """

    interest: int | None = None
    since: date | None = None
    until: date | None = None
    prompt_version: str = ""

    def condition(self) -> tuple[str, list[Any]]:
        """`` AND …`` on ``leads_task_list l``, and its parameters."""
        parts: list[tuple[str, Any]] = []
        if self.interest is not None:
            parts.append(("l.is_interested = %s", self.interest))
        if self.since is not None:
            parts.append((f"{CALLED_AT} >= %s", self.since))
        if self.until is not None and self.until < date.max:
            parts.append((f"{CALLED_AT} < %s", self.until + timedelta(days=1)))
        if self.prompt_version:
            last = (
                "(SELECT j.prompt_version FROM call_analyses j WHERE j.list_id = l.id AND j.outcome IN"
                " ('analysed', 'kept') ORDER BY j.id DESC LIMIT 1)"
            )
            parts.append((f"{last} = %s", self.prompt_version))
        return "".join(f" AND {condition}" for condition, _ in parts), [value for _, value in parts]


ALL = Narrowing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """How a row's follow-up stands in the CRM. Times are wall clock.

    Attributes:
        follow_id: 0 if the row never had a follow-up.
        linked: whether the row points to it; a lost link is in our ledger still.
        change: what a person did since we wrote it: ``edited`` (remark or next time), ``deleted``, or ``""``.
    """

    list_id: int
    leads_id: Any
    is_interested: int | None
    follow_id: int
    linked: bool
    leads_remark: str
    next_follow_time: datetime | None
    change: str


# A failed re-analysis is not written to the CRM, so of failures the first is the one that was; of others the last.
_WRITTEN = (
    "SELECT a.list_id, a.leads_remark, a.next_follow_time FROM call_analyses a JOIN ("
    " SELECT CASE k.outcome WHEN 'failed' THEN MIN(j.id) ELSE MAX(j.id) END AS id"
    " FROM call_follow_ups k JOIN call_analyses j ON j.list_id = k.list_id AND j.outcome = k.outcome"
    " WHERE k.list_id IN ({ids}) GROUP BY k.list_id, k.outcome) w ON w.id = a.id"
)


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
        "SELECT id, leads_id, is_interested, COALESCE(leads_follow_id, '') NOT IN ('', '0'), leads_follow_id,"
        f" COALESCE(call_status, '') FROM leads_task_list WHERE id IN ({some}) ORDER BY id{update}",
        ids,
    )
    rows = cursor.fetchall()
    cursor.execute(f"SELECT list_id, follow_id, outcome FROM call_follow_ups WHERE list_id IN ({some})", ids)
    ledger = {int(row[0]): (int(row[1]), str(row[2])) for row in cursor.fetchall()}
    cursor.execute(_WRITTEN.format(ids=some), ids)
    written = {int(row[0]): (str(row[1]), row[2]) for row in cursor.fetchall()}
    follow_ids = {int(row[0]): int(row[4]) if row[3] else ledger.get(int(row[0]), (0, ""))[0] for row in rows}
    there = _follow_ups(cursor, sorted({id_ for id_ in follow_ids.values() if id_}), update)
    found = {}
    for row in rows:
        id_ = int(row[0])
        follow_up = there.get(follow_ids[id_])
        if id_ not in written and ledger.get(id_, (0, ""))[1] == "default":
            written[id_] = (default_remark(str(row[5])), None)
        remark, next_time = follow_up or ("", None)
        found[id_] = Present(
            list_id=id_,
            leads_id=row[1],
            is_interested=None if row[2] is None else int(row[2]),
            follow_id=follow_ids[id_],
            linked=bool(row[3]),
            leads_remark=remark,
            next_follow_time=next_time,
            change=_change(follow_up, written.get(id_)) if follow_ids[id_] else "",
        )
    return found


def _follow_ups(cursor: Cursor, ids: Sequence[int], update: str) -> dict[int, tuple[str, datetime | None]]:
    if not ids:
        return {}
    cursor.execute(
        "SELECT id, COALESCE(leads_remark, ''), next_follow_time FROM dcc_leads_follow"
        f" WHERE id IN ({marks(len(ids))}) ORDER BY id{update}",
        ids,
    )
    return {int(row[0]): (str(row[1]), row[2]) for row in cursor.fetchall()}


def _change(there: tuple[str, datetime | None] | None, written: tuple[str, datetime | None] | None) -> str:
    if there is None:
        return "deleted"
    if written is None or (there[0].strip(), there[1]) == (written[0].strip(), written[1]):
        return ""
    return "edited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One judgement of a call, as the ledger keeps it. ``created_at`` is UTC, ``next_follow_time`` wall clock."""

    id: int
    request_id: str
    outcome: str
    is_interested: int
    leads_remark: str
    next_follow_time: datetime | None
    evidence: str
    model: str
    prompt_version: str
    transcript_hash: str
    input_tokens: int
    output_tokens: int
    error_code: str
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
    cursor.execute(
        f"SELECT l.task_id, l.id, COALESCE(l.call_status, ''), {CALLED_AT} FROM leads_task_list l"
        " WHERE l.call_job_id = %s ORDER BY l.id LIMIT 1",
        (call_job_id,),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    list_id = int(row[1])
    cursor.execute(
        "SELECT id, request_id, outcome, is_interested, leads_remark, next_follow_time, evidence, model,"
        " prompt_version, transcript_hash, input_tokens, output_tokens, error_code, created_at"
        " FROM call_analyses WHERE list_id = %s ORDER BY id",
        (list_id,),
    )
    names = [field.name for field in fields(Analysis)]
    analyses = [Analysis(**dict(zip(names, values, strict=True))) for values in cursor.fetchall()]
    return CallHistory(
        call_job_id=call_job_id,
        task_id=int(row[0]),
        list_id=list_id,
        call_status=str(row[2]),
        called_at=row[3],
        follow_up=present(cursor, [list_id])[list_id],
        analyses=analyses,
    )


def spent_tokens(cursor: Cursor, task_id: int, request_id: str = "") -> int:
    """Tokens that the judgements of a re-analysis, or (without one) all of a task, have cost, as the ledger knows."""
    cursor.execute(
        "SELECT COALESCE(SUM(input_tokens + output_tokens), 0) FROM call_analyses"
        " WHERE task_id = %s AND (%s = '' OR request_id = %s)",
        (task_id, request_id, request_id),
    )
    row = cursor.fetchone()
    return int(row[0]) if row else 0
