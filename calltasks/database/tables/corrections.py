"""What people say of judgements, ``call_corrections``: a correction is written to the CRM, a confirmation leaves it as
it is; either is a person's word, which a re-analysis keeps (rule 13.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime

from pymysql.cursors import Cursor

from calltasks.database.connection import marks
from calltasks.database.tables import ledger, opt_outs
from calltasks.database.tables.analyses import CALLED_AT, FollowUp, Present, moment, present
from calltasks.database.tables.follow_up_events import tell_follow_ups, tell_opt_outs
from calltasks.database.tables.follow_ups import judge, rewrite
from calltasks.database.tables.opt_outs import PERSON, OptOut, Refusal
from calltasks.errors import ChangedMeanwhileError, NoFollowUpError
from calltasks.rules.phones import e164

CORRECTED, CONFIRMED = "corrected", "confirmed"
LONGEST_NAME = 191


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What a person says of a call. ``next_follow_time`` is wall clock."""

    is_interested: int
    leads_remark: str
    next_follow_time: datetime | None
    do_not_call: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Said(Word):
    """A word that is written down. ``kind``: corrected or confirmed; ``created_at`` is UTC, naive."""

    kind: str
    created_by: str
    created_at: datetime


def seal(there: Present, refusal: OptOut | None) -> str:
    """Of what a page shows of a call, to be compared with how it stands when somebody says something of it.

    ``refusal``: the entry that keeps the customer's number from being called.
    """
    shown = (there.call_job_id, there.follow_id, there.is_interested, refusal and refusal.id)
    said = f"{shown}\n{ledger.digest(there.leads_remark, there.next_follow_time)}"
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()


def correct(
    cursor: Cursor,
    list_id: int,
    word: Word,
    *,
    organization_id: str,
    seen: str | None,
    by: str,
    now: datetime,
    now_utc: datetime,
) -> None:
    """Write what a person says of a row's call into the CRM and into our ledgers, inside a transaction.

    ``seen``: the :func:`seal` of what the person has seen; None: whatever it was.

    Raises:
        NoFollowUpError: there is no follow-up to correct, or a person has deleted it.
        ChangedMeanwhileError: it is not what the person has seen.
    """
    there, task_id, number, stands, dialled = _locked(cursor, list_id, organization_id)
    if _is_written(cursor, list_id, by, now_utc):
        return
    _compare(list_id, there, stands, seen)
    said = FollowUp(
        list_id=list_id,
        call_job_id=there.call_job_id,
        outcome="kept",
        is_interested=word.is_interested,
        leads_remark=word.leads_remark,
        next_follow_time=word.next_follow_time,
    )
    rewrite(cursor, [(there.follow_id, said)], now)
    judge(cursor, [(list_id, word.is_interested)])
    ledger.keep(cursor, task_id, there.follow_id, said, now_utc)
    _write_down(cursor, task_id, there.call_job_id, list_id, word, CORRECTED, by, now_utc)
    told = [(there.follow_id, replace(said, outcome=CORRECTED))]
    tell_follow_ups(cursor, task_id, told, f"{CORRECTED} {now_utc}", {list_id: there.leads_id}, again=True)
    if word.do_not_call:
        # The customer said so at the number that was dialled; the CRM may have another one by now.
        refusals = [
            Refusal(
                phone=phone,
                source=PERSON,
                evidence=word.leads_remark,
                created_by=by,
                task_id=task_id,
                list_id=list_id,
                call_job_id=there.call_job_id,
            )
            for phone in {number, dialled} - ({""} if stands is None else {"", number})
        ]
        entered = opt_outs.enter(cursor, organization_id, refusals, now_utc=now_utc)
        tell_opt_outs(cursor, task_id, entered)
    elif stands:
        opt_outs.lift(cursor, organization_id, number, reason="corrected", by=by, now_utc=now_utc)


def confirm(
    cursor: Cursor, list_id: int, *, organization_id: str, seen: str | None, by: str, now_utc: datetime
) -> None:
    """Write down that a person finds a judgement right, inside a transaction.

    ``seen``: as for :func:`correct`.

    Raises:
        NoFollowUpError: there is none.
        ChangedMeanwhileError: it is not what the person has seen.
    """
    there, task_id, _, stands, _ = _locked(cursor, list_id, organization_id)
    if _is_written(cursor, list_id, by, now_utc):
        return
    _compare(list_id, there, stands, seen)
    word = Word(
        # What is no judgement was shown as one that cannot be told.
        is_interested=there.is_interested if there.is_interested in (1, 2) else 0,
        leads_remark=there.leads_remark,
        next_follow_time=there.next_follow_time,
        do_not_call=stands is not None,
    )
    said = FollowUp(
        list_id=list_id,
        call_job_id=there.call_job_id,
        outcome="kept",
        is_interested=word.is_interested,
        leads_remark=word.leads_remark,
    )
    ledger.keep(cursor, task_id, there.follow_id, said, now_utc)
    _write_down(cursor, task_id, there.call_job_id, list_id, word, CONFIRMED, by, now_utc)


def of_call(cursor: Cursor, list_id: int, call_job_id: str) -> list[Said]:
    """What people have said of a row's call, in order."""
    names = [field.name for field in fields(Said)]
    cursor.execute(
        f"SELECT {', '.join(names)} FROM call_corrections WHERE list_id = %s AND call_job_id = %s ORDER BY id",
        (list_id, call_job_id),
    )
    return [_said(names, row) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A call of which a person has had the last word. ``called_at`` is wall clock."""

    id: int
    name: str
    phone: str
    conversation: str
    called_at: datetime | None
    said: Said


def lessons(cursor: Cursor, organization_id: str, after: int, limit: int = 200) -> list[Lesson]:
    """The calls of an organisation that people have corrected or confirmed, with their last word, by the id of the row
    and from behind one."""
    cursor.execute(
        "SELECT MAX(c.id) FROM call_corrections c JOIN leads_task_list l ON l.id = c.list_id"
        " AND CAST(c.call_job_id AS BINARY) = CAST(CONVERT(l.call_job_id USING utf8mb4) AS BINARY)"
        " JOIN call_tasks t ON t.id = l.task_id WHERE t.organization_id = %s AND c.list_id > %s"
        f" GROUP BY c.list_id ORDER BY c.list_id LIMIT {int(limit)}",
        (organization_id, after),
    )
    ids = [int(row[0]) for row in cursor.fetchall()]
    if not ids:
        return []
    names = [field.name for field in fields(Said)]
    cursor.execute(
        f"SELECT {', '.join(f'c.{name}' for name in names)}, l.id, COALESCE(l.leads_name, ''),"
        f" COALESCE(l.leads_phone, ''), COALESCE(l.call_conversation, ''), {CALLED_AT}"
        " FROM call_corrections c JOIN leads_task_list l ON l.id = c.list_id"
        f" WHERE c.id IN ({marks(len(ids))}) ORDER BY l.id",
        ids,
    )
    return [
        Lesson(
            id=int(row[-5]),
            name=str(row[-4]),
            phone=str(row[-3]),
            conversation=str(row[-2]),
            called_at=moment(row[-1]),
            said=_said(names, row),
        )
        for row in cursor.fetchall()
    ]


def _said(names: Sequence[str], row: tuple[object, ...]) -> Said:
    values = dict(zip(names, row, strict=False))
    return Said(**values | {"do_not_call": bool(values["do_not_call"])})  # type: ignore[arg-type]


def _locked(cursor: Cursor, list_id: int, organization_id: str) -> tuple[Present, int, str, OptOut | None, str]:
    """The row's follow-up, locked, its task, its number (E.164, or ``""``), the entry that stands of that, and the
    number that was dialled, as far as it is known."""
    there = present(cursor, [list_id], lock=True).get(list_id)
    if there is None or not there.follow_id or there.change == "deleted":
        raise NoFollowUpError(list_id)
    cursor.execute(
        "SELECT l.task_id, COALESCE(l.leads_phone, ''), COALESCE(c.phone, '') FROM leads_task_list l"
        " LEFT JOIN call_contacts c ON c.list_id = l.id AND c.task_id = l.task_id WHERE l.id = %s",
        (list_id,),
    )
    task_id, phone, dialled = cursor.fetchone() or (0, "", "")
    number = e164(str(phone)) or ""
    stands = opt_outs.standing(cursor, organization_id, number) if number else None
    return there, int(task_id), number, stands, str(dialled)


def _compare(list_id: int, there: Present, refusal: OptOut | None, seen: str | None) -> None:
    if seen is not None and seen != seal(there, refusal):
        raise ChangedMeanwhileError(list_id)


def _is_written(cursor: Cursor, list_id: int, by: str, now_utc: datetime) -> bool:
    """Whether this is run again after a lost answer to COMMIT."""
    cursor.execute("SELECT created_by FROM call_corrections WHERE list_id = %s AND created_at = %s", (list_id, now_utc))
    row = cursor.fetchone()
    return row is not None and str(row[0]) == by[:LONGEST_NAME]


def _write_down(
    cursor: Cursor, task_id: int, job_id: str, list_id: int, word: Word, kind: str, by: str, now_utc: datetime
) -> None:
    cursor.execute(
        "INSERT INTO call_corrections (list_id, task_id, call_job_id, kind, is_interested, leads_remark,"
        " next_follow_time, do_not_call, created_by, created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            *(list_id, task_id, job_id, kind, word.is_interested, word.leads_remark, word.next_follow_time),
            *(int(word.do_not_call), by[:LONGEST_NAME], now_utc),
        ),
    )
