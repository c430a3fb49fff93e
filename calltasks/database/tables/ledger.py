"""``call_follow_ups``: which follow-up a call was given, and what the CRM held after we wrote it (rules 6, 7).

Ids of rows come again where a CRM is restored or emptied beside our tables. So an entry carries the call's job id and
counts only for a row that has it: the platform gives no id twice, and nobody edits it. Once the row has lost its link,
it counts no longer where its follow-up is now another lead's, or another row's. A row whose lead was merged into
another one keeps its entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pymysql.cursors import Cursor

from calltasks.database.connection import derived, flat, marks

if TYPE_CHECKING:
    from calltasks.database.tables.analyses import FollowUp

SAME_CALL = "CAST({0}.call_job_id AS BINARY) = CAST(CONVERT(l.call_job_id USING utf8mb4) AS BINARY)"
"""An entry is of the row ``l``. As bytes in one character set: the CRM's have any, ours utf8mb4."""
OF_TASK = (
    "{0}.task_id = %s AND ({0}.job_group_id IS NULL OR CAST({0}.job_group_id AS BINARY) ="
    " (SELECT CAST(CONVERT(COALESCE(g.job_group_id, '') USING utf8mb4) AS BINARY)"
    " FROM call_tasks g WHERE g.id = {0}.task_id))"
)
"""An entry is of the task that has this id now, not of one that had it before the CRM was restored or emptied."""
GROUP = "(SELECT NULLIF(g.job_group_id, '') FROM call_tasks g WHERE g.id = %s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What was written for a row. ``stored``: :func:`digest` of what the follow-up held then, as read back."""

    follow_id: int
    is_interested: int
    outcome: str
    stored: str


def digest(remark: Any, next_time: Any) -> str:
    """What a follow-up says, as read from its columns; whatever they do to values, two readings of one are alike."""
    said = f"{str(remark or '').strip()}\n{next_time or ''}"
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()


def entries(cursor: Cursor, ids: Sequence[int]) -> dict[int, Entry]:
    """The entries that count, by row."""
    cursor.execute(
        "SELECT k.list_id, k.follow_id, k.is_interested, k.outcome, k.stored_hash, l.leads_id, f.leads_id,"
        " CAST(l.leads_follow_id AS CHAR) = CAST(k.follow_id AS CHAR)"
        f" FROM call_follow_ups k JOIN leads_task_list l ON l.id = k.list_id AND {SAME_CALL.format('k')}"
        f" LEFT JOIN dcc_leads_follow f ON f.id = k.follow_id WHERE k.list_id IN ({marks(len(ids))})",
        ids,
    )
    known = [row for row in cursor.fetchall() if row[7] or row[6] is None or str(row[6]) == str(row[5])]
    if not known:
        return {}
    # As text: an index serves, whether the column holds numbers or texts.
    cursor.execute(
        f"SELECT leads_follow_id, id FROM leads_task_list WHERE leads_follow_id IN ({marks(len(known))})",
        [str(row[1]) for row in known],
    )
    owners = {(str(follow_id), int(id_)) for follow_id, id_ in cursor.fetchall()}
    others = {follow_id for follow_id, _ in owners}
    return {
        int(list_id): Entry(follow_id=int(follow_id), is_interested=int(interest), outcome=outcome, stored=stored)
        for list_id, follow_id, interest, outcome, stored, *_ in known
        if str(follow_id) not in others or (str(follow_id), int(list_id)) in owners
    }


def persons_word(interests: dict[int, int | None], start: str) -> dict[int, int]:
    """Of the interests of rows without a follow-up those that somebody has set before our first one; what the column
    starts with is nobody's."""
    said = {id_: interest for id_, interest in interests.items() if interest is not None}
    return {id_: interest for id_, interest in said.items() if str(interest) != start}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a row and its follow-up hold, as read back. ``lead``: whose the follow-up is, as text; ``""``: nobody's, it
    is not there. ``digest``: of what it says; ``""`` likewise."""

    interest: Any
    lead: str
    digest: str


def read_back(cursor: Cursor, given: Sequence[tuple[int, int]]) -> dict[int, Stored]:
    """What rows hold now, by row, with the follow-ups that they were given: row and follow-up, inside the transaction
    that wrote them. Columns may change values, and so may triggers."""
    if not given:
        return {}
    cursor.execute(
        "SELECT l.id, l.is_interested, f.id, f.leads_id, f.leads_remark, f.next_follow_time"
        f" FROM ({derived(('id', 'follow_id'), len(given))}) v STRAIGHT_JOIN leads_task_list l ON l.id = v.id"
        " LEFT JOIN dcc_leads_follow f ON f.id = v.follow_id",
        flat(given),
    )
    return {
        int(id_): Stored(interest=interest, lead=str(lead), digest=digest(remark, next_time))
        if follow_id is not None
        else Stored(interest=interest, lead="", digest="")
        for id_, interest, follow_id, lead, remark, next_time in cursor.fetchall()
    }


def save(
    cursor: Cursor,
    task_id: int,
    given: Sequence[tuple[int, FollowUp]],
    stored: Mapping[int, Stored],
    now_utc: datetime,
) -> None:
    """Write down which follow-ups (by id) rows were given, with what we wrote or would have, and what the follow-ups
    hold now (:func:`read_back`), inside the same transaction."""
    if not given:
        return
    names = ("list_id", "call_job_id", "follow_id", "is_interested", "outcome", "stored_hash", "created_at")
    rows = [
        (
            *(one.list_id, one.call_job_id, follow_id, one.is_interested, one.outcome),
            *(stored[one.list_id].digest, now_utc),
        )
        for follow_id, one in given
    ]
    # The group is read once, not once a row.
    cursor.execute(
        f"INSERT INTO call_follow_ups (task_id, job_group_id, {', '.join(names)})"
        f" SELECT %s, {GROUP}, v.* FROM ({derived(names, len(rows))}) v ON DUPLICATE KEY UPDATE "
        + ", ".join(f"{column} = VALUES({column})" for column in ("task_id", "job_group_id", *names[1:])),
        (task_id, task_id, *flat(rows)),
    )


KEPT = ""
"""Stands for what a follow-up held, where a person has had the last word: nothing that it ever holds is the same."""


def keep(cursor: Cursor, task_id: int, follow_id: int, said: FollowUp, now_utc: datetime) -> None:
    """Have a row's follow-up count as a person's from now on, whatever it says, inside a transaction."""
    cursor.execute(
        "SELECT 1 FROM call_follow_ups WHERE list_id = %s AND follow_id = %s AND call_job_id = %s",
        (said.list_id, follow_id, said.call_job_id),
    )
    if cursor.fetchone() is None:
        unknown = Stored(interest=None, lead="", digest=KEPT)
        save(cursor, task_id, [(follow_id, said)], {said.list_id: unknown}, now_utc)
    cursor.execute("UPDATE call_follow_ups SET stored_hash = %s WHERE list_id = %s", (KEPT, said.list_id))
