"""Who is sent next: transactions that read what decides about it, and write down what is about to leave (rule 2.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pymysql.cursors import Cursor

from activities.holdings import GroupReading, Holding, Lead, hold
from activities.tasks import existing
from calltasks.clock import elapsed
from calltasks.database.tables import contacts, suppressions, task_options
from calltasks.database.tables import dispatches as table
from calltasks.database.tables.contacts import Twins
from calltasks.database.tables.dispatches import NOTHING, Batch, DoubtError, Span, Undialled, Written
from calltasks.database.tables.gate import Gate
from calltasks.database.tables.tasks import TaskRow
from calltasks.platform.session import CONTACTS_A_CALL
from calltasks.rules.pairing import reference

BATCHES_AT_ONCE = 11
PORTIONS = 5
"""Of as many rows as these batches hold: so many in a row are looked at in one transaction while nobody is called."""
MOST_TRIES = 3
"""A contact for which the platform makes no job, and says nothing against it, is sent so often in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """How a task comes to its job group: it has one, or ``tries`` to make one of this name may have gone through."""

    job_group_id: str
    name: str
    tries: list[Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is open of a task. ``known``: job ids of its rows; None if the group need not be read. ``over``: type 3."""

    unresolved: list[Batch]
    known: set[str] | None
    over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A batch that is written down and not sent yet."""

    id: int
    rows: list[Undialled]
    tries: int


@dataclass(slots=True)
class Claimed:
    """What one transaction claimed.

    Attributes:
        claims: batches to send.
        waiting: other batches whose end is open.
        more: rows are left that were in no batch yet.
        read: it went by a whole reading of the group.
        unread: rows among those that are left are with the platform, and do not say so, or may be.
        wait: seconds until the platform would list those that may be.
        unclaimed: jobs of the group that belong to no row: nothing was sent again.
        suppressed: rows that are left out, by reason.
        failed: rows that were sent in vain for the last time.
        known: what is written down then.
    """

    claims: list[Claim] = field(default_factory=list)
    waiting: list[Batch] = field(default_factory=list)
    more: bool = False
    read: bool = False
    unread: bool = False
    wait: float = 0.0
    unclaimed: int = 0
    suppressed: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    known: Written = NOTHING


def plan_group(cursor: Cursor, task_id: int) -> GroupPlan:
    """See whether the task has its group, or ever had one; inside a transaction.

    Raises:
        ApplicationError: ``UnknownTask``.
        DoubtError: calls were made that may be of this task.
    """
    row = existing(cursor, task_id, lock=True)
    name = table.group_name(task_id, row.create_time)
    if row.job_group_id:
        return GroupPlan(job_group_id=row.job_group_id, name=name, tries=[])
    if group_id := table.known_group(cursor, task_id, name):
        table.save_group(cursor, task_id, None, group_id)
    return GroupPlan(job_group_id=group_id, name=name, tries=table.group_tries(cursor, task_id, name))


def standing(cursor: Cursor, task_id: int, group_id: str, *, grace: float, list_first: bool) -> Standing:
    """What is open of the task, inside a transaction. If a batch's grace is over, the group must be read."""
    over = _own(cursor, task_id, group_id).task_type >= 3
    unresolved = table.unresolved(cursor, task_id, group_id)
    read = list_first or any(batch.age >= grace and not batch.unsent for batch in unresolved)
    known = table.held_jobs(cursor, task_id) if read and not over else None
    return Standing(unresolved=unresolved, known=known, over=over)


def claim(
    cursor: Cursor,
    task_id: int,
    group_id: str,
    *,
    grace: float,
    ripe: Sequence[int],
    reading: GroupReading | None,
    list_first: bool,
    known: Written = NOTHING,
) -> Claimed:
    """Claim what may be sent, inside a transaction.

    Args:
        cursor: inside a transaction.
        task_id: the task; ``group_id`` its job group.
        grace: seconds after which a batch may be sent again.
        ripe: ids of open batches that may be sent again, as far as the reading (or that they never left) allows.
        reading: a whole one that began when those batches were ripe; None if there is none.
        list_first: the group may hold rows that were in no batch.
        known: what was written down when this run looked last. If that is not there any more, a database has lost what
            it had committed: whatever may have left since counts as sent now, without an answer.

    Raises:
        DoubtError: who was called already cannot be told.
    """
    task = _own(cursor, task_id, group_id)
    _same_rows(cursor, task_id, group_id)
    written = table.written(cursor, task_id, group_id)
    if written.entry < known.entry:
        _write_down_again(cursor, task, written.last_id + 1, known.last_id)
        written, ripe = table.written(cursor, task_id, group_id), []
    unresolved = table.unresolved(cursor, task_id, group_id)
    # As they stand now: another attempt may have found that they may have left after all.
    again = [one for one in unresolved if one.id in ripe and (one.unsent or (reading and one.age >= grace))]
    result = _claim(
        cursor, task, written.last_id, unresolved, again, reading=reading, list_first=list_first, grace=grace
    )
    result.known = table.written(cursor, task_id, group_id)
    return result


def _claim(
    cursor: Cursor,
    task: TaskRow,
    started: int,
    unresolved: Sequence[Batch],
    again: Sequence[Batch],
    *,
    reading: GroupReading | None,
    list_first: bool,
    grace: float,
) -> Claimed:
    result, gate = Claimed(), _gate(cursor, task)
    holding = Holding(rows=set(), unclaimed=[])
    if reading is not None:
        holding = _hold(cursor, task, reading, unresolved, started)
        result.unclaimed = len(holding.unclaimed)
    again = [batch for batch in again if batch.unsent or not holding.unclaimed]
    # By our own word the next rows were in no batch; without one, a job of nobody may be any of theirs.
    if list_first and (reading is None or (holding.unclaimed and not started)):
        result.waiting, result.more = list(unresolved), True
        return result
    result.read = reading is not None
    for batch in again[:BATCHES_AT_ONCE]:
        _again(cursor, gate, batch, holding, result)
    sent_again = {batch.id for batch in again[:BATCHES_AT_ONCE]}
    result.waiting = [batch for batch in unresolved if batch.id not in sent_again]
    # As old as this, whatever the platform has stood in the reading.
    listed = grace + elapsed() - reading.began if reading else None
    _next(cursor, gate, started, holding, result, grace=grace, listed=listed)
    _hand_over(cursor, task, result.claims)
    return result


def _write_down_again(cursor: Cursor, task: TaskRow, first: int, last: int) -> None:
    task_id, group_id = task.task_id, task.job_group_id
    table.in_doubt(cursor, task_id, group_id)
    while rows := table.undialled(cursor, task_id, first=first, last=last, limit=CONTACTS_A_CALL):
        ids = table.insert(cursor, task_id, group_id, [Span(first=rows[0], last_id=rows[-1].id)])
        _hand_over(cursor, task, [Claim(id=ids[0], rows=[row for row in rows if row.phone], tries=0)])
        first = rows[-1].id + 1


def _hand_over(cursor: Cursor, task: TaskRow, claims: Sequence[Claim]) -> None:
    contacts.hand_over(cursor, task, [row for claim in claims for row in claim.rows])


def renew(
    cursor: Cursor, task_id: int, group_id: str, old: Claim, parts: Sequence[list[Undialled]]
) -> tuple[list[Claim], Counter[str]]:
    """Put batches of these rows in the place of one whose request was refused, inside a transaction.

    Returns:
        The batches, and how many rows are left out now, by reason.
    """
    task = _own(cursor, task_id, group_id)
    table.close(cursor, old.id)
    out, suppressed = _leave_out(cursor, _gate(cursor, task), [row for part in parts for row in part])
    parts = [left for part in parts if (left := [row for row in part if row.id not in out])]
    spans = [Span(first=part[0], last_id=part[-1].id, tries=old.tries) for part in parts]
    ids = table.insert(cursor, task_id, group_id, spans)
    claims = [Claim(id=id_, rows=part, tries=old.tries) for id_, part in zip(ids, parts, strict=True)]
    _hand_over(cursor, task, claims)
    return claims, suppressed


def _own(cursor: Cursor, task_id: int, group_id: str) -> TaskRow:
    """The task, locked, if it still has this group."""
    row = existing(cursor, task_id, lock=True)
    if row.job_group_id != group_id:
        raise DoubtError(
            f"call task {task_id}: its job_group_id was changed while its leads were handed over; nobody more is called"
        )
    return row


def _same_rows(cursor: Cursor, task_id: int, group_id: str) -> None:
    if table.replaced(cursor, task_id, group_id):
        raise DoubtError(
            f"call task {task_id}: rows of leads_task_list that were handed over are other leads now; nobody more is"
            " called. Make a new task of these leads"
        )


def _hold(cursor: Cursor, task: TaskRow, reading: GroupReading, unresolved: Sequence[Batch], started: int) -> Holding:
    task_id = task.task_id
    spans = [(batch.first_id, batch.last_id) for batch in unresolved]
    leads = [
        Lead(
            id=row_id,
            leads_id=lead,
            reference=reference(own, task_id, lead),
            phone=phone,
            job_id=job_id,
            # A job without a reference is rather that of a row whose batch was taken, than of one that got no answer.
            rank=2 if row_id > started else int(any(first <= row_id <= last for first, last in spans)),
        )
        for row_id, lead, own, phone, job_id in table.everybody(cursor, task_id)
    ]
    own = (f"{task_id}{task.organization_id}", reference("", task_id, ""))
    holding = hold(reading.jobs, leads, own)
    elsewhere = table.taken_elsewhere(cursor, task_id, holding.unclaimed)
    return Holding(rows=holding.rows, unclaimed=[job for job in holding.unclaimed if job not in elsewhere])


def _again(cursor: Cursor, gate: Gate, batch: Batch, holding: Holding, result: Claimed) -> None:
    """Claim once more what the platform turned out not to have of a batch.

    What may have left goes out in halves: one contact that the platform chokes on does not hold up the others for ever.
    """
    task_id = gate.task.task_id
    rows = table.undialled(cursor, task_id, first=batch.first_id, last=batch.last_id, limit=CONTACTS_A_CALL)
    rows = _allowed(cursor, gate, rows, holding, result)
    left = [row for row in rows if row.id not in holding.rows]
    if batch.tries >= MOST_TRIES or not left:
        table.fail(cursor, [row.id for row in left])
        table.accept(cursor, [batch.id])
        result.failed += len(left)
        return
    table.close(cursor, batch.id)
    size = CONTACTS_A_CALL if batch.unsent else -(-len(left) // 2)
    parts = [part for part in _parts(rows, holding, size) if part[0].id not in holding.rows]
    shared = contacts.twins(cursor, gate.task, rows)
    _write_down(cursor, gate.task, parts, holding, result, shared, tries=batch.tries)


def _next(
    cursor: Cursor,
    gate: Gate,
    started: int,
    holding: Holding,
    result: Claimed,
    *,
    grace: float,
    listed: float | None,
) -> None:
    """Claim the next rows that were in no batch yet, up to one that was, under another id, and may be listed yet."""
    task, limit = gate.task, BATCHES_AT_ONCE * CONTACTS_A_CALL
    found: list[Undialled] = []
    rows: list[Undialled] = []
    for _ in range(PORTIONS):
        first = found[-1].id if found else started
        found = table.undialled(cursor, task.task_id, first=first + 1, last=None, limit=limit)
        result.more = len(found) == limit
        rows = _allowed(cursor, gate, found, holding, result)
        if rows or not result.more:
            break
    result.unread = result.more and any(row_id > found[-1].id for row_id in holding.rows)
    if result.more and not rows:
        # Where the database refuses to leave them out, they would be found again for ever.
        span = Span(first=found[0], last_id=found[-1].id)
        for id_ in table.insert(cursor, task.task_id, task.job_group_id, [span]):
            table.close(cursor, id_)
    shared = contacts.twins(cursor, task, rows)
    for index, row in enumerate(rows):
        age = shared.anew.get(row.id)
        if age is not None and row.id not in holding.rows and (listed is None or age < listed):
            result.more = result.unread = True
            result.wait = max(grace - age, 0.0)
            rows = rows[:index]
            break
    _write_down(cursor, task, _parts(rows, holding, CONTACTS_A_CALL), holding, result, shared, tries=0)


def _gate(cursor: Cursor, task: TaskRow) -> Gate:
    """What this task's rows must pass; until the transaction ends, no other campaign does that would matter."""
    gate = Gate(task=task, limits=task_options.limits(task_options.kept(cursor, task).options))
    gate.shut(cursor)
    return gate


def _allowed(
    cursor: Cursor, gate: Gate, rows: Sequence[Undialled], holding: Holding, result: Claimed
) -> list[Undialled]:
    """The rows that may be called, or that the platform has already; the others are left out."""
    out, suppressed = _leave_out(cursor, gate, [row for row in rows if row.id not in holding.rows])
    result.suppressed += suppressed
    return [row for row in rows if row.id not in out]


def _leave_out(cursor: Cursor, gate: Gate, rows: Sequence[Undialled]) -> tuple[dict[int, str], Counter[str]]:
    """Rows that are not to be called, and how many of them are left out now, by reason (rules 11.1, 11.7, 11.8)."""
    out = gate.left_out(cursor, rows)
    leads = [(row.id, row.leads_id, out[row.id]) for row in rows if row.id in out]
    refused = suppressions.suppress(cursor, gate.task.task_id, leads)
    return out, Counter(why for row_id, _, why in leads if row_id not in refused)


def _parts(rows: Sequence[Undialled], holding: Holding, size: int) -> list[list[Undialled]]:
    """Rows in batches of at most ``size``, in order; those that the platform holds are in batches of their own."""
    parts: list[list[Undialled]] = []
    for row in rows:
        if not parts or len(parts[-1]) >= size or (parts[-1][0].id in holding.rows) != (row.id in holding.rows):
            parts.append([])
        parts[-1].append(row)
    return parts


def _write_down(
    cursor: Cursor,
    task: TaskRow,
    parts: Sequence[list[Undialled]],
    holding: Holding,
    result: Claimed,
    shared: Twins,
    *,
    tries: int,
) -> None:
    spans = [Span(first=part[0], last_id=part[-1].id, tries=tries) for part in parts]
    claims = [
        Claim(id=id_, rows=[row for row in part if row.id not in shared.later | holding.rows], tries=tries)
        for id_, part in zip(table.insert(cursor, task.task_id, task.job_group_id, spans), parts, strict=True)
    ]
    table.accept(cursor, [claim.id for claim in claims if not claim.rows])
    result.claims += [claim for claim in claims if claim.rows]
