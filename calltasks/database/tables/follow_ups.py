"""``dcc_leads_follow`` and our ledger of it: exactly one follow-up a row (rules 6.6, 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import SERVICE, bulks, derived, flat, look_up, marks, unchanged
from calltasks.database.tables import ledger, needs, opt_outs
from calltasks.database.tables.analyses import CALLED_AT, STEP, FollowUp, Present, moment, present, settle
from calltasks.database.tables.follow_up_events import tell_failures, tell_follow_ups, tell_opt_outs
from calltasks.database.tables.ledger import SAME_CALL
from calltasks.database.tables.needs import CALL_TIMES, CALLED, FOLLOW_UP, TRANSCRIPT_EXPECTED, interest_of, is_final
from calltasks.database.tables.orphans import find as find_orphans
from calltasks.database.tables.rows import ids_in
from calltasks.errors import PermanentError
from calltasks.rules.reanalysis import Reanalysis
from calltasks.rules.row_ranges import Ranges

ROWS_A_TRANSACTION = 500
"""Rows whose follow-ups become visible together; bounds how long their locks are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCall:
    """A called row with its outcome, to be followed up. Times are wall clock. ``recorded``: our ledgers may know it."""

    id: int
    call_job_id: str
    call_status: str
    conversation: str
    called_at: datetime | None
    tries: int
    since: datetime | None
    error_code: str = ""
    recorded: bool = False


KNOWN = "known"
"""Outcome of a row whose follow-up our ledger knows: the link alone is mended, nothing else is ever written for it."""


class LedgerError(PermanentError):
    """The database did not do what it was asked to; the transaction is given up."""

    def __init__(self, what: str) -> None:
        super().__init__(SERVICE, "follow_up", what)


_CALLS = (
    "SELECT l.id, l.call_job_id, l.call_status, COALESCE(l.call_conversation, ''),"
    f" {CALLED_AT}, COALESCE(a.tries, 0), a.since, COALESCE(a.error_code, ''),"
    " EXISTS (SELECT 1 FROM call_analyses e WHERE e.list_id = l.id)"
    " OR EXISTS (SELECT 1 FROM call_follow_ups e WHERE e.list_id = l.id)"
)


def _finished(cursor: Cursor) -> list[FinishedCall]:
    return [
        FinishedCall(
            id=int(row[0]),
            call_job_id=str(row[1]),
            call_status=str(row[2]),
            conversation=str(row[3]),
            called_at=moment(row[4]),
            tries=int(row[5]),
            since=row[6],
            error_code=str(row[7]),
            recorded=bool(row[8]),
        )
        for row in cursor.fetchall()
    ]


def to_follow_up(
    cursor: Cursor, task_id: int, ranges: Ranges, *, conversation_grace: float, now: datetime
) -> list[FinishedCall]:
    """Of these rows those that wait for a follow-up and no longer for a transcript. ``now`` is UTC, naive."""
    condition, parameters = ids_in(ranges)
    cursor.execute(
        f"{_CALLS}{FOLLOW_UP.rows} AND {condition} AND {FOLLOW_UP.due_now} ORDER BY l.id",
        (task_id, conversation_grace, *parameters, now),
    )
    return _finished(cursor)


def to_analyse_again(
    cursor: Cursor, task_id: int, ranges: Ranges, request_id: str, *, conversation_grace: float
) -> list[FinishedCall]:
    """Of these rows those that this request has not judged yet; those that wait for a transcript wait on (rule 4.8)."""
    condition, parameters = ids_in(ranges)
    cursor.execute(
        f"{_CALLS} FROM leads_task_list l{FOLLOW_UP.joins} WHERE l.task_id = %s AND {CALLED} AND {is_final()}"
        f" AND {condition} AND NOT EXISTS (SELECT 1 FROM call_analyses j"
        " WHERE j.list_id = l.id AND j.request_id = %s AND j.settled_at IS NOT NULL)"
        f" AND NOT {TRANSCRIPT_EXPECTED} ORDER BY l.id",
        (task_id, *parameters, request_id, conversation_grace),
    )
    return _finished(cursor)


def requested(cursor: Cursor, task_id: int, request: Reanalysis, after: int = 0, limit: int | None = None) -> list[int]:
    """Rows that a re-analysis takes, in order of id, ``limit`` of them (None: all) from behind ``after``."""
    narrowed = _narrowed(request)
    join = (
        f" JOIN call_follow_ups f ON f.list_id = l.id AND {SAME_CALL.format('f')}"
        " AND f.outcome IN ('failed', 'over_ceiling')"
    )
    look_up(
        cursor,
        f"SELECT l.id FROM leads_task_list l{join if request.failed else ''} WHERE l.task_id = %s"
        f" AND l.id > %s AND {CALLED} AND {is_final()}{''.join(f' AND {condition}' for condition, _ in narrowed)}"
        " ORDER BY l.id" + ("" if limit is None else " LIMIT %s"),
        (task_id, after, *flat(values for _, values in narrowed), *(() if limit is None else (limit,))),
        job="l.call_job_id",
    )
    return [int(row[0]) for row in cursor.fetchall()]


def _narrowed(request: Reanalysis) -> list[tuple[str, Sequence[Any]]]:
    """Conditions on ``leads_task_list l``, each with its parameters."""
    parts: list[tuple[str, Sequence[Any]]] = []
    if request.call_job_ids:
        parts.append((f"{{job}} IN ({marks(len(request.call_job_ids))})", request.call_job_ids))
    if request.interest is not None:
        parts.append(("l.is_interested = %s", [str(request.interest)]))
    if request.since is not None:
        parts.append((f"{CALLED_AT} >= %s", [date.fromisoformat(request.since)]))
    if request.until is not None and (until := date.fromisoformat(request.until)) < date.max:
        parts.append((f"{CALLED_AT} < %s", [until + timedelta(days=1)]))
    if request.prompt_version:
        last = (
            f"(SELECT j.prompt_version FROM call_analyses j WHERE j.list_id = l.id AND {SAME_CALL.format('j')}"
            " AND j.outcome IN ('analysed', 'kept') ORDER BY j.id DESC LIMIT 1)"
        )
        parts.append((f"{last} = %s", [request.prompt_version]))
    return parts


def create(
    cursor: Cursor,
    task_id: int,
    follow_ups: Sequence[FollowUp],
    *,
    now: datetime,
    now_utc: datetime,
    request_id: str = "",
    start: str = "",
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
        start: what ``is_interested`` holds that nobody has set.

    Returns:
        How many follow-ups were written.

    Raises:
        LedgerError: an id or a count is not what it must be; nothing is written.
    """
    wanted = {follow_up.list_id: follow_up for follow_up in follow_ups}
    rows = [row for row in _lock(cursor, sorted(wanted)) if row.call_job_id == wanted[row.id].call_job_id]
    if not rows:
        return 0
    known = ledger.entries(cursor, [row.id for row in rows])
    word = ledger.persons_word({row.id: row.interest for row in rows if not row.follow_id}, start)
    relink = [
        (row.id, row.follow_id or known[row.id].follow_id, word.get(row.id, known[row.id].is_interested))
        for row in rows
        if row.id in known and (not row.follow_id or row.interest is None)
    ]
    _link(cursor, relink)
    open_ = [row for row in rows if row.id not in known and wanted[row.id].outcome != KNOWN]
    unlinked = [row for row in open_ if not row.follow_id]
    # A follow-up from before our time, whose row was never judged: the judgement alone is ours to add.
    found = {row.id: row.follow_id for row in open_ if row.follow_id and row.interest is None}
    judge(cursor, [(id_, wanted[id_].is_interested) for id_ in found])
    orphans = find_orphans(cursor, task_id, {row.id: row.leads_id for row in unlinked})
    new = {row.id: row.leads_id for row in unlinked if row.id not in orphans}
    made = _insert(cursor, new, wanted, rows[0].step, now=now)
    links = orphans | made
    _link(cursor, [(id_, follow_id, word.get(id_, wanted[id_].is_interested)) for id_, follow_id in links.items()])
    found |= orphans
    entries = [
        replace(one, outcome="kept") if one.outcome == "analysed" else one for one in map(wanted.get, found) if one
    ]
    entries += [wanted[id_] for id_ in made]
    settle(
        cursor, task_id, [one for one in entries if request_id or one.outcome != "default"], request_id, now_utc=now_utc
    )
    kept = [replace(wanted[id_], outcome="kept") for id_ in found]
    given = [((found | made)[one.list_id], one) for one in (*kept, *(wanted[id_] for id_ in made))]
    given = _save(cursor, task_id, given, new, word, now_utc)
    tell_follow_ups(cursor, task_id, given, request_id, {row.id: row.leads_id for row in rows})
    refusals = [wanted[row.id] for row in rows if wanted[row.id].do_not_call]
    tell_opt_outs(cursor, task_id, opt_outs.heed(cursor, task_id, refusals, now_utc=now_utc))
    return len(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A locked row. ``follow_id``: 0 if it points to no follow-up. ``step``: between the ids that one INSERT gives."""

    id: int
    leads_id: Any
    call_job_id: str
    follow_id: int
    interest: int | None
    step: int


def _lock(cursor: Cursor, ids: Sequence[int]) -> list[_Row]:
    cursor.execute(
        f"SELECT l.id, l.leads_id, COALESCE(l.call_job_id, ''), {needs.follow_id()}, l.is_interested, {STEP}"
        f" FROM leads_task_list l WHERE l.id IN ({marks(len(ids))}) ORDER BY l.id FOR UPDATE",
        ids,
    )
    return [
        _Row(
            id=int(row[0]),
            leads_id=row[1],
            call_job_id=str(row[2]),
            follow_id=int(row[3]),
            interest=interest_of(row[4]),
            step=int(row[5]),
        )
        for row in cursor.fetchall()
    ]


def _save(
    cursor: Cursor,
    task_id: int,
    given: Sequence[tuple[int, FollowUp]],
    new: Mapping[int, Any],
    word: Mapping[int, int],
    now_utc: datetime,
) -> list[tuple[int, FollowUp]]:
    """Check that ``new`` follow-ups are their leads' and write down what rows were given; returns that, with the
    interests that the rows hold now, except a person's own ``word``, which is not ours."""
    stored = ledger.read_back(cursor, [(one.list_id, follow_id) for follow_id, one in given])
    # As text: a lead's id may be a number in one table and a text in the other.
    if any(stored[id_].lead != str(lead) for id_, lead in new.items()):
        raise LedgerError("UnexpectedIds")

    def held(one: FollowUp) -> FollowUp:
        interest = interest_of(stored[one.list_id].interest)
        return one if one.list_id in word or interest is None else replace(one, is_interested=interest)

    given = [(follow_id, held(one)) for follow_id, one in given]
    ledger.save(cursor, task_id, given, stored, now_utc)
    return given


def update(
    cursor: Cursor,
    task_id: int,
    follow_ups: Sequence[FollowUp],
    *,
    request_id: str,
    now: datetime,
    now_utc: datetime,
    override: bool = False,
    start: str = "",
) -> tuple[int, set[int]]:
    """Write re-analyses (rule 7.2), inside a transaction: update where there is a follow-up, else create.

    Rows that this request has judged already are left out, so that it counts once however often it is run. A follow-up
    that a person has edited or deleted since is left as it is, and the judgement goes into the ledger as ``kept``;
    with ``override`` it is replaced, or made again.

    Returns:
        How many rows were judged anew, and the rows whose follow-up a person's edit has kept.
    """
    wanted, ids = {one.list_id: one for one in follow_ups}, sorted(one.list_id for one in follow_ups)
    there = present(cursor, ids, lock=True)
    # Asked once they are locked: whoever had them before may have judged them for this request.
    cursor.execute(
        f"SELECT list_id FROM call_analyses WHERE task_id = %s AND request_id = %s AND list_id IN ({marks(len(ids))})"
        " AND settled_at IS NOT NULL",
        (task_id, request_id, *ids),
    )
    done = {int(row[0]) for row in cursor.fetchall()}
    todo: dict[str, list[Present]] = {}
    for row in there.values():
        one = wanted[row.list_id]
        if row.list_id not in done and row.call_job_id == one.call_job_id:
            todo.setdefault(row.action(one.outcome, override=override), []).append(row)
    missing = [wanted[row.list_id] for row in todo.get("create", []) if not row.follow_id]
    if missing:
        create(cursor, task_id, missing, now=now, now_utc=now_utc, request_id=request_id, start=start)
    written = [row for row in (*todo.get("update", []), *todo.get("create", [])) if row.follow_id]
    if written:
        _replace(cursor, task_id, written, wanted, request_id=request_id, now=now, now_utc=now_utc)
    kept = {row.list_id for row in todo.get("keep", [])}
    entries = [
        *(wanted[row.list_id] for row in (*todo.get("failed", []), *written)),
        *(replace(wanted[id_], outcome="kept") for id_ in sorted(kept)),
    ]
    settle(cursor, task_id, entries, request_id, now_utc=now_utc)
    tell_failures(cursor, task_id, [wanted[row.list_id] for row in todo.get("failed", [])], request_id)
    judged = [wanted[row.list_id] for row in chain(*todo.values())]
    tell_opt_outs(cursor, task_id, opt_outs.heed(cursor, task_id, judged, now_utc=now_utc))
    return sum(one.outcome != "failed" for one in missing) + len(written), kept


def _replace(
    cursor: Cursor,
    task_id: int,
    rows: Sequence[Present],
    wanted: dict[int, FollowUp],
    *,
    request_id: str,
    now: datetime,
    now_utc: datetime,
) -> None:
    """Write new judgements where follow-ups are or were: deleted ones are made again, lost links mended."""
    gone = {row.list_id: row.leads_id for row in rows if row.change == "deleted"}
    follow_ids = {row.list_id: row.follow_id for row in rows}
    follow_ids |= _insert(cursor, gone, wanted, rows[0].step, now=now)
    rewrite(cursor, [(row.follow_id, wanted[row.list_id]) for row in rows if row.list_id not in gone], now)
    relink = [row.list_id for row in rows if row.list_id in gone or not row.linked]
    _link(cursor, [(id_, follow_ids[id_], wanted[id_].is_interested) for id_ in relink])
    judge(cursor, [(row.list_id, wanted[row.list_id].is_interested) for row in rows])
    given = [(follow_ids[row.list_id], wanted[row.list_id]) for row in rows]
    given = _save(cursor, task_id, given, gone, {}, now_utc)
    tell_follow_ups(cursor, task_id, given, request_id, {row.list_id: row.leads_id for row in rows}, again=True)


def _insert(
    cursor: Cursor, leads: Mapping[int, Any], wanted: dict[int, FollowUp], step: int, *, now: datetime
) -> dict[int, int]:
    """Insert the follow-ups of rows, whose lead is given; returns the ids that they must have got, by row."""
    made: dict[int, int] = {}
    values = [
        (id_, lead, now, wanted[id_].leads_remark, now, now, wanted[id_].next_follow_time)
        for id_, lead in leads.items()
    ]
    for part in bulks(values):
        cursor.execute(
            "INSERT INTO dcc_leads_follow"
            " (leads_id, follow_time, leads_remark, frist_follow_time, new_follow_time, next_follow_time) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(part)),
            flat(row[1:] for row in part),
        )
        first = int(cursor.lastrowid)
        made |= {int(row[0]): first + step * index for index, row in enumerate(part)}
    return made


def _link(cursor: Cursor, links: Sequence[tuple[int, int, int]]) -> None:
    if not links:
        return
    cursor.execute(
        f"UPDATE ({derived(('id', 'follow_id', 'interest'), len(links))}) v"
        " STRAIGHT_JOIN leads_task_list t ON t.id = v.id"
        f" SET t.leads_follow_id = v.follow_id, t.is_interested = v.interest, {unchanged(CALL_TIMES)}",
        # As texts: for an ENUM a number would be the place of its label.
        flat((id_, follow_id, str(interest)) for id_, follow_id, interest in links),
    )
    if cursor.rowcount != len(links):
        raise LedgerError("UnlinkedRows")


def judge(cursor: Cursor, judgements: Sequence[tuple[int, int]]) -> None:
    """Give rows their interest."""
    if not judgements:
        return
    cursor.execute(
        f"UPDATE ({derived(('id', 'interest'), len(judgements))}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id"
        f" SET t.is_interested = v.interest, {unchanged(CALL_TIMES)}",
        flat((id_, str(interest)) for id_, interest in judgements),
    )


def rewrite(cursor: Cursor, kept: Sequence[tuple[int, FollowUp]], now: datetime) -> None:
    """Give follow-ups (by id) what these say; ``now`` is wall clock."""
    values = [(follow_id, follow_up.leads_remark, now, follow_up.next_follow_time) for follow_id, follow_up in kept]
    for part in bulks(values):
        cursor.execute(
            f"UPDATE ({derived(('id', 'remark', 'renewed', 'next_time'), len(part))}) v"
            " STRAIGHT_JOIN dcc_leads_follow t ON t.id = v.id"
            " SET t.leads_remark = v.remark, t.new_follow_time = v.renewed, t.next_follow_time = v.next_time,"
            f" {unchanged(['follow_time', 'frist_follow_time'])}",
            flat(part),
        )
