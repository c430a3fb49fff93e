"""``dcc_leads_follow`` and our ledger of it: exactly one follow-up a row (SPEC 6, 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from clients.database import derived, flat, marks
from clients.tables.analyses import ALL, CALLED_AT, Narrowing, Present, present
from clients.tables.needs import CALLED, FOLLOW_UP, TRANSCRIPT_EXPECTED, is_final
from clients.tables.orphans import find as find_orphans
from clients.tables.rows import Runs, ids_in

ROWS_A_TRANSACTION = 500
"""Rows whose follow-ups become visible together; bounds how long their locks are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCall:
    """A called row with its outcome, to be followed up. Times are wall clock."""

    id: int
    call_job_id: str
    call_status: str
    conversation: str
    called_at: datetime | None
    tries: int
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """What a row's follow-up shall say. Times are wall clock; ``outcome`` as in ``call_analyses``, or kept."""

    list_id: int
    call_job_id: str
    outcome: str
    is_interested: int
    leads_remark: str
    next_follow_time: datetime | None = None
    evidence: str = ""
    model: str = ""
    prompt_version: str = ""
    transcript_hash: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    error_code: str = ""


class LedgerError(Exception):
    """The database did not do what it was asked to; the transaction is given up and run again."""


_CALLS = (
    "SELECT l.id, l.call_job_id, l.call_status, COALESCE(l.call_conversation, ''),"
    f" {CALLED_AT}, COALESCE(a.tries, 0), a.since"
)


def _finished(cursor: Cursor) -> list[FinishedCall]:
    return [
        FinishedCall(
            id=int(row[0]),
            call_job_id=str(row[1]),
            call_status=str(row[2]),
            conversation=str(row[3]),
            called_at=row[4],
            tries=int(row[5]),
            since=row[6],
        )
        for row in cursor.fetchall()
    ]


def to_follow_up(
    cursor: Cursor, task_id: int, runs: Runs, *, conversation_grace: float, now: datetime
) -> list[FinishedCall]:
    """Of these rows those that wait for a follow-up and no longer for a transcript. ``now`` is UTC, naive."""
    condition, parameters = ids_in(runs)
    cursor.execute(
        f"{_CALLS}{FOLLOW_UP.rows} AND {condition} AND {FOLLOW_UP.due_now} ORDER BY l.id",
        (task_id, conversation_grace, *parameters, now),
    )
    return _finished(cursor)


def to_analyse_again(
    cursor: Cursor, task_id: int, runs: Runs, request_id: str, *, conversation_grace: float
) -> list[FinishedCall]:
    """Of these rows those that this request has not judged yet; those that wait for a transcript wait on (SPEC 4)."""
    condition, parameters = ids_in(runs)
    cursor.execute(
        f"{_CALLS} FROM leads_task_list l{FOLLOW_UP.joins} WHERE l.task_id = %s AND {CALLED} AND {is_final()}"
        f" AND {condition} AND NOT EXISTS (SELECT 1 FROM call_analyses j"
        " WHERE j.list_id = l.id AND j.request_id = %s)"
        f" AND NOT {TRANSCRIPT_EXPECTED} ORDER BY l.id",
        (task_id, *parameters, request_id, conversation_grace),
    )
    return _finished(cursor)


def requested(
    cursor: Cursor,
    task_id: int,
    *,
    job_ids: Sequence[str] | None,
    failed: bool,
    narrowed: Narrowing = ALL,
    after: int = 0,
    limit: int | None = None,
) -> list[int]:
    """Rows that a re-analysis names: by job id, those that the model has not judged though it should, or else all; in
    order of id, ``limit`` of them (None: all) from behind ``after``."""
    condition, parameters = narrowed.condition()
    join = " JOIN call_follow_ups f ON f.list_id = l.id AND f.outcome IN ('failed', 'over_ceiling')"
    if job_ids is not None:
        if not job_ids:
            return []
        condition += f" AND l.call_job_id IN ({marks(len(job_ids))})"
        parameters = [*parameters, *job_ids]
    cursor.execute(
        f"SELECT l.id FROM leads_task_list l{join if failed and job_ids is None else ''} WHERE l.task_id = %s"
        f" AND l.id > %s AND {CALLED} AND {is_final()}{condition}"
        " ORDER BY l.id" + ("" if limit is None else " LIMIT %s"),
        (task_id, after, *parameters, *(() if limit is None else (limit,))),
    )
    return [int(row[0]) for row in cursor.fetchall()]


def create(
    cursor: Cursor,
    task_id: int,
    follow_ups: Sequence[FollowUp],
    *,
    now: datetime,
    now_utc: datetime,
    request_id: str = "",
) -> int:
    """Write the follow-ups of these rows, inside a transaction; rows that have or had one are left out.

    A row whose follow-up is in the ledger but whose link was lost gets the link back, never a second follow-up; so
    does one whose follow-up another program wrote but never linked.

    Args:
        cursor: inside a transaction (READ COMMITTED).
        task_id: the rows' task.
        follow_ups: at most one a row, at most ``ROWS_A_TRANSACTION``.
        now: wall clock, for the CRM's columns.
        now_utc: UTC, naive, for ours.
        request_id: of the re-analysis that asked for them, if one did.

    Returns:
        How many follow-ups were written.

    Raises:
        LedgerError: an id or a count is not what it must be; nothing is written.
    """
    wanted = {follow_up.list_id: follow_up for follow_up in follow_ups}
    ids = sorted(wanted)
    cursor.execute(
        "SELECT id, leads_id, COALESCE(leads_follow_id, '') IN ('', '0'), is_interested IS NULL,"
        f" @@auto_increment_increment FROM leads_task_list WHERE id IN ({marks(len(ids))}) ORDER BY id FOR UPDATE",
        ids,
    )
    locked = cursor.fetchall()
    cursor.execute(
        f"SELECT list_id, follow_id, is_interested FROM call_follow_ups WHERE list_id IN ({marks(len(ids))})", ids
    )
    known = {int(row[0]): (int(row[1]), int(row[2])) for row in cursor.fetchall()}
    relink = [(row[0], *known[row[0]]) for row in locked if row[0] in known and (row[2] or row[3])]
    if relink:
        _link(cursor, relink)
    new = [(int(row[0]), row[1]) for row in locked if row[0] not in known and row[2]]
    orphans = find_orphans(cursor, task_id, [id_ for id_, _ in new])
    if orphans:
        _link(cursor, [(id_, follow_id, wanted[id_].is_interested) for id_, follow_id in orphans.items()])
        new = [(id_, leads_id) for id_, leads_id in new if id_ not in orphans]
    written_before = [wanted[row[0]] for row in locked if row[0] not in known and not row[2] and row[3]]
    if written_before:
        # A follow-up from before our time, whose row was never judged: the judgement alone is ours to add.
        _judge(cursor, [(follow_up.list_id, follow_up.is_interested) for follow_up in written_before])
    judged = [*written_before, *(wanted[id_] for id_ in orphans)]
    entries = [replace(one, outcome="kept") if one.outcome == "analysed" else one for one in judged]
    if paid := [one for one in entries if one.outcome != "default"]:
        _insert_analyses(cursor, task_id, paid, request_id, now_utc)
    if new:
        links = _insert(cursor, new, wanted, now=now, step=int(locked[0][4]))
        _link(cursor, [(id_, follow_id, wanted[id_].is_interested) for id_, follow_id in links])
        _record(cursor, task_id, [(follow_id, wanted[id_]) for id_, follow_id in links], request_id, now_utc)
    return len(new)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What a portion of re-analyses came to: rows judged anew, and rows whose follow-up a person's edit kept."""

    judged: int
    kept: list[int]


def update(
    cursor: Cursor,
    task_id: int,
    follow_ups: Sequence[FollowUp],
    *,
    request_id: str,
    now: datetime,
    now_utc: datetime,
    override: bool = False,
) -> Rewritten:
    """Write re-analyses (SPEC 7), inside a transaction: update where there is a follow-up, else create.

    Rows that this request has judged already are left out, so that it counts once however often it is run. A follow-up
    that a person has edited or deleted since is left as it is, and the judgement goes into the ledger as ``kept``;
    with ``override`` it is replaced, or made again.
    """
    wanted = {follow_up.list_id: follow_up for follow_up in follow_ups}
    ids = sorted(wanted)
    standing = present(cursor, ids, lock=True)
    cursor.execute(
        f"SELECT list_id FROM call_analyses WHERE task_id = %s AND request_id = %s AND list_id IN ({marks(len(ids))})",
        (task_id, request_id, *ids),
    )
    done = {int(row[0]) for row in cursor.fetchall()}
    todo = [row for row in standing.values() if row.list_id not in done]
    missing = [wanted[row.list_id] for row in todo if not row.follow_id]
    if missing:
        create(cursor, task_id, missing, now=now, now_utc=now_utc, request_id=request_id)
    # A failed re-analysis is written down, but it does not replace what a customer's call was judged to say.
    failed = [wanted[row.list_id] for row in todo if row.follow_id and wanted[row.list_id].outcome == "failed"]
    judged = [row for row in todo if row.follow_id and wanted[row.list_id].outcome != "failed"]
    kept = [row.list_id for row in judged if row.change and not override]
    written = [row for row in judged if override or not row.change]
    if written:
        _replace(cursor, task_id, written, wanted, now=now, now_utc=now_utc)
    entries = [
        *failed,
        *(wanted[row.list_id] for row in written),
        *(replace(wanted[id_], outcome="kept") for id_ in kept),
    ]
    if entries:
        _insert_analyses(cursor, task_id, entries, request_id, now_utc)
    return Rewritten(judged=sum(one.outcome != "failed" for one in missing) + len(written), kept=kept)


def _replace(
    cursor: Cursor,
    task_id: int,
    rows: Sequence[Present],
    wanted: dict[int, FollowUp],
    *,
    now: datetime,
    now_utc: datetime,
) -> None:
    """Write new judgements where follow-ups are or were: deleted ones are made again, lost links mended."""
    gone = [(row.list_id, row.leads_id) for row in rows if row.change == "deleted"]
    follow_ids = {row.list_id: row.follow_id for row in rows}
    if gone:
        cursor.execute("SELECT @@auto_increment_increment")
        increment = cursor.fetchone()
        assert increment is not None
        follow_ids.update(_insert(cursor, gone, wanted, now=now, step=int(increment[0])))
    there = [(row.follow_id, wanted[row.list_id]) for row in rows if row.change != "deleted"]
    if there:
        _rewrite(cursor, there, now)
    relink = [row.list_id for row in rows if row.change == "deleted" or not row.linked]
    if relink:
        _link(cursor, [(id_, follow_ids[id_], wanted[id_].is_interested) for id_ in relink])
    _judge(cursor, [(row.list_id, wanted[row.list_id].is_interested) for row in rows])
    _upsert_ledger(cursor, task_id, [(follow_ids[row.list_id], wanted[row.list_id]) for row in rows], now_utc)


def _insert(
    cursor: Cursor, rows: Sequence[tuple[int, Any]], wanted: dict[int, FollowUp], *, now: datetime, step: int
) -> list[tuple[int, int]]:
    """Insert one follow-up a row; returns (row id, follow-up id), read back and checked."""
    values = [
        (leads_id, now, wanted[id_].leads_remark, now, now, wanted[id_].next_follow_time) for id_, leads_id in rows
    ]
    cursor.execute(
        "INSERT INTO dcc_leads_follow"
        " (leads_id, follow_time, leads_remark, frist_follow_time, new_follow_time, next_follow_time) VALUES "
        + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(values)),
        flat(values),
    )
    first = int(cursor.lastrowid)
    follow_ids = [first + step * index for index in range(len(rows))]
    cursor.execute(f"SELECT id, leads_id FROM dcc_leads_follow WHERE id IN ({marks(len(rows))})", follow_ids)
    owners = {int(row[0]): row[1] for row in cursor.fetchall()}
    if [owners.get(id_) for id_ in follow_ids] != [leads_id for _, leads_id in rows]:
        raise LedgerError("the ids of the inserted follow-ups are not the expected ones")
    return [(id_, follow_id) for (id_, _), follow_id in zip(rows, follow_ids, strict=True)]


def _link(cursor: Cursor, links: Sequence[tuple[int, int, int]]) -> None:
    cursor.execute(
        f"UPDATE ({derived(('id', 'follow_id', 'interest'), len(links))}) v"
        " STRAIGHT_JOIN leads_task_list t ON t.id = v.id"
        " SET t.leads_follow_id = v.follow_id, t.is_interested = v.interest",
        flat(links),
    )
    if cursor.rowcount != len(links):
        raise LedgerError("not every row took its follow-up")


def _judge(cursor: Cursor, judgements: Sequence[tuple[int, int]]) -> None:
    cursor.execute(
        f"UPDATE ({derived(('id', 'interest'), len(judgements))}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id"
        " SET t.is_interested = v.interest",
        flat(judgements),
    )


def _rewrite(cursor: Cursor, kept: Sequence[tuple[int, FollowUp]], now: datetime) -> None:
    values = [(follow_id, follow_up.leads_remark, now, follow_up.next_follow_time) for follow_id, follow_up in kept]
    cursor.execute(
        f"UPDATE ({derived(('id', 'remark', 'renewed', 'next_time'), len(values))}) v"
        " STRAIGHT_JOIN dcc_leads_follow t ON t.id = v.id"
        " SET t.leads_remark = v.remark, t.new_follow_time = v.renewed, t.next_follow_time = v.next_time",
        flat(values),
    )


def _record(
    cursor: Cursor, task_id: int, written: Sequence[tuple[int, FollowUp]], request_id: str, now_utc: datetime
) -> None:
    _upsert_ledger(cursor, task_id, written, now_utc)
    analysed = [follow_up for _, follow_up in written if request_id or follow_up.outcome != "default"]
    if analysed:
        _insert_analyses(cursor, task_id, analysed, request_id, now_utc)


def _upsert_ledger(cursor: Cursor, task_id: int, written: Sequence[tuple[int, FollowUp]], now_utc: datetime) -> None:
    rows = [(f.list_id, task_id, follow_id, f.is_interested, f.outcome, now_utc) for follow_id, f in written]
    cursor.execute(
        "INSERT INTO call_follow_ups (list_id, task_id, follow_id, is_interested, outcome, created_at) VALUES "
        + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(rows))
        + " ON DUPLICATE KEY UPDATE is_interested = VALUES(is_interested), outcome = VALUES(outcome),"
        " follow_id = VALUES(follow_id)",
        flat(rows),
    )


def _insert_analyses(
    cursor: Cursor, task_id: int, follow_ups: Sequence[FollowUp], request_id: str, now_utc: datetime
) -> None:
    rows = [
        (
            *(f.list_id, task_id, f.call_job_id, request_id, f.outcome, f.is_interested, f.leads_remark),
            *(f.next_follow_time, f.evidence, f.model, f.prompt_version, f.transcript_hash),
            *(f.input_tokens, f.output_tokens, f.error_code, now_utc),
        )
        for f in follow_ups
    ]
    cursor.execute(
        "INSERT INTO call_analyses (list_id, task_id, call_job_id, request_id, outcome, is_interested, leads_remark,"
        " next_follow_time, evidence, model, prompt_version, transcript_hash, input_tokens, output_tokens, error_code,"
        " created_at) VALUES " + ", ".join(["(" + marks(16) + ")"] * len(rows)),
        flat(rows),
    )
