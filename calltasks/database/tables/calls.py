"""Calls of a campaign, for people to look at: filtered, sorted, a page at a time (rules 13.2, 13.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import marks
from calltasks.database.tables import needs, opt_outs, tasks
from calltasks.database.tables.analyses import CALLED_AT, SECOND, Present, moment, present
from calltasks.database.tables.ledger import SAME_CALL
from calltasks.database.tables.needs import CALLED, final_status
from calltasks.rules.phones import e164

A_PAGE = 50
_NO_TIME = "1000-01-01 00:00:00"
LONG_TALK = 300
"""Characters of a transcript from which on somebody has said enough to be understood: about a dozen turns."""
_REASONS = {"disagreement": 8, "unreadable": 4, "undecided": 2, "unproven": 1}
"""Worth of a look at a call: how often a person finds something to correct there. The sum names its reasons."""
_ENTRY = (
    f"CONCAT(LPAD(a.id, 20, '0'), a.is_interested, a.evidence = '', a.characters >= {LONG_TALK}, a.transcript_hash)"
)
"""Of the greatest one, the latest: interest stands at 21, whether no sentence proves it at 22, whether much was said at
23, the transcript's hash from 24 on."""
_OF_LEDGER = (
    "(SELECT e.list_id, IF(e.other <> '' AND SUBSTR(e.said, 24) = SUBSTR(e.other, 24)"
    " AND SUBSTR(e.said, 21, 1) <> SUBSTR(e.other, 21, 1), 8, 0) + IF(e.unreadable, 4, 0)"
    " + IF(SUBSTR(e.said, 21, 1) = '0' AND SUBSTR(e.said, 23, 1) = '1', 2, 0) + IF(SUBSTR(e.said, 22, 1) = '1', 1, 0)"
    " AS worth FROM"
    " (SELECT a.list_id, MAX(a.outcome = 'unreadable') AS unreadable,"
    f" MAX(IF(a.outcome IN ('analysed', 'kept'), {_ENTRY}, '')) AS said,"
    f" MAX(IF(a.outcome = '{SECOND}', {_ENTRY}, '')) AS other FROM call_analyses a WHERE {{}} GROUP BY a.list_id) e)"
)
"""How much it is worth to read calls; one pass over the ledger's entries that a condition names."""
_WORTH = "COALESCE(w.worth, 0)"
_UNSEEN = (
    "NOT EXISTS (SELECT 1 FROM call_corrections w WHERE w.list_id = l.id"
    " AND CAST(w.call_job_id AS BINARY) = CAST(CONVERT(l.call_job_id USING utf8mb4) AS BINARY))"
)
_ID = "l.id"
_TIME = f"COALESCE(CAST({CALLED_AT} AS DATETIME(6)), CAST('{_NO_TIME}' AS DATETIME(6)))"
"""Of one type, whatever the columns have: as texts ``10:00:00`` and ``10:00:00.000`` are two times."""
SORTS = {
    "newest": (_ID, "DESC"),
    "oldest": (_ID, "ASC"),
    "latest": (_TIME, "DESC"),
    "earliest": (_TIME, "ASC"),
    "worth": (_WORTH, "DESC"),
}
"""In which order calls may be shown: by what, and which way."""

_BACKWARDS = {"DESC": "ASC", "ASC": "DESC"}
_WRITTEN = (
    f" LEFT JOIN call_follow_ups h ON h.list_id = l.id AND {SAME_CALL.format('h')}"
    " LEFT JOIN dcc_leads_follow f ON f.id = CAST(l.leads_follow_id AS UNSIGNED)"
)
_TEXT = "CAST(CONVERT({} USING utf8mb4) AS BINARY)"
_AS_WRITTEN = (
    f"(f.id IS NOT NULL AND (h.list_id IS NULL OR ({_TEXT.format('f.leads_id')} = {_TEXT.format('l.leads_id')}"
    " AND COALESCE(CAST(l.is_interested AS CHAR), '') IN ('', CAST(h.is_interested AS CHAR))"
    " AND SHA2(CONCAT(TRIM(CONVERT(COALESCE(f.leads_remark, '') USING utf8mb4)), '\n',"
    " COALESCE(DATE_FORMAT(f.next_follow_time, '%%Y-%%m-%%d %%H:%%i:%%s'), '')), 256) = h.stored_hash)))"
)
"""The follow-up is as we wrote it for sure (:func:`~calltasks.database.tables.analyses.present` says whether one is of
which this is not true): nearly all are, and need not be read one by one."""
_NUMBER = "TRIM(LEADING '+86' FROM CONVERT(COALESCE(l.leads_phone, '') USING utf8mb4))"
_MAY_REFUSE = (
    f"(CHAR_LENGTH({_NUMBER}) <> 11 OR {_NUMBER} NOT REGEXP '^1[3-9][0-9]{{9}}'"
    " OR EXISTS (SELECT 1 FROM call_opt_outs o WHERE o.organization_id = %s AND o.standing = 1"
    f" AND o.phone = CONVERT(CONCAT('+86', {_NUMBER}) USING ascii) COLLATE ascii_bin))"
)
"""The organisation does not call the number, or it is spelled otherwise than nearly all are: what such a field holds
only :func:`~calltasks.rules.phones.e164` tells."""
SEARCHED = 10_000
"""Calls that one page looks through for words: nothing but reading every conversation finds them."""
_MORE = 1_000
"""Rows that are looked at in one go where a look at what they hold decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls of a campaign; what is not given takes no part.

    Attributes:
        status: an outcome, or ``open`` for none yet.
        failed: whose analysis failed; ``edited``: whose follow-up a person has changed or deleted; ``opted_out``: whose
            number the organisation does not call now, whoever said so.
        day: of the call, wall clock.
        words: that stand in remark or transcript.
        to_read: where a look is worth most, and no person has said anything of it yet.
    """

    interest: int | None = None
    status: str = ""
    failed: bool = False
    edited: bool = False
    opted_out: bool = False
    day: date | None = None
    words: str = ""
    to_read: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A called row, as a list shows it. Times are wall clock; ``outcome`` of its follow-up, as our ledger has it;
    ``opted_out``: the organisation does not call its number now."""

    id: int
    task_id: int
    call_job_id: str
    leads_id: str
    name: str
    phone: str
    call_status: str
    called_at: datetime | None
    is_interested: int | None
    outcome: str
    opted_out: bool
    recorded: bool
    worth: int
    follow_up: Present

    @property
    def reasons(self) -> list[str]:
        """Why a person should read it: ``disagreement`` of two judges, an ``unreadable`` answer, ``undecided`` although
        much was said, ``unproven`` by any sentence."""
        return [name for name, worth in _REASONS.items() if self.worth & worth]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """A page.

    Attributes:
        after: where the next one begins; ``""``: there is none.
        whole: if not, it has fewer calls than it might: behind ``after`` nobody has looked for the words yet.
    """

    calls: list[Call]
    after: str
    whole: bool


def sorts(chosen: CallFilter) -> list[str]:
    """The orders in which these calls may be shown: by worth only where it decides who is among them."""
    return [name for name, (key, _) in SORTS.items() if chosen.to_read or key != _WORTH]


def page(
    cursor: Cursor,
    task_id: int,
    chosen: CallFilter,
    sort: str,
    after: str,
    limit: int = A_PAGE,
    *,
    backwards: bool = False,
) -> Calls:
    """Calls of a task, ``limit`` of them, from behind a place that an earlier page has named.

    Raises:
        ValueError: there is no such place or sort.
    """
    found, until = _places(cursor, task_id, chosen, sort, after, limit + 1, backwards)
    shown = list(found)[:limit]
    whole = len(found) > limit
    return Calls(calls=_load(cursor, shown), after=found[shown[-1]] if whole else until, whole=whole or not until)


def one(cursor: Cursor, list_id: int, organization_id: str) -> Call | None:
    """The call of a row, if its campaign is of this organisation."""
    cursor.execute(
        "SELECT t.organization_id FROM leads_task_list l JOIN call_tasks t ON t.id = l.task_id WHERE l.id = %s",
        (list_id,),
    )
    owner = cursor.fetchone()
    if owner is None or str(owner[0]) != organization_id:
        return None
    found = _load(cursor, [list_id])
    return found[0] if found else None


def neighbour(cursor: Cursor, call: Call, chosen: CallFilter, sort: str, *, before: bool) -> int | None:
    """The row before or behind a call, in this order of these calls; with words, none that is far away."""
    values = {_ID: call.id, _TIME: call.called_at or datetime.fromisoformat(_NO_TIME), _WORTH: call.worth}
    place = f"{values[SORTS[sort][0]]}~{call.id}"
    found, _ = _places(cursor, call.task_id, chosen, sort, place, 1, before)
    return next(iter(found), None)


def job_ids(cursor: Cursor, task_id: int, ids: Sequence[int]) -> list[str]:
    """The jobs of those of these rows that are of the task and called."""
    cursor.execute(
        f"SELECT l.call_job_id FROM leads_task_list l WHERE l.task_id = %s AND l.id IN ({marks(len(ids))}) AND {CALLED}"
        " ORDER BY l.id",
        (task_id, *ids),
    )
    return [str(row[0]) for row in cursor.fetchall()]


def conversation(cursor: Cursor, list_id: int) -> str:
    """What is stored of what was said; ``""`` if it is nothing."""
    cursor.execute("SELECT call_conversation FROM leads_task_list WHERE id = %s", (list_id,))
    row = cursor.fetchone()
    return str(row[0] or "") if row else ""


def _places(
    cursor: Cursor, task_id: int, chosen: CallFilter, sort: str, after: str, limit: int, backwards: bool
) -> tuple[dict[int, str], str]:
    """The next rows, as many as that, in their order, each with the place behind which the following one stands; and
    up to where was looked for words, ``""`` if to the end."""
    if sort not in sorts(chosen):
        raise ValueError(sort)
    found: dict[int, str] = {}
    step, until = limit, ""
    if chosen.words:
        last = _some(cursor, task_id, replace(chosen, words=""), sort, after, "", 1, backwards, skip=SEARCHED - 1)
        until = next(iter(last.values()), "")
    while len(found) < limit:
        some = _some(cursor, task_id, chosen, sort, after, until, step, backwards)
        found |= _decided(cursor, task_id, some, chosen)
        if len(some) < step:
            break
        after, step = some[next(reversed(some))], max(step, _MORE)
    return dict(islice(found.items(), limit)), until


def _decided(cursor: Cursor, task_id: int, some: dict[int, str], chosen: CallFilter) -> dict[int, str]:
    """Those of these rows of which it is true what only a look at them tells."""
    if chosen.opted_out and some:
        cursor.execute(
            f"SELECT id, COALESCE(leads_phone, '') FROM leads_task_list WHERE id IN ({marks(len(some))})", list(some)
        )
        phones = {int(id_): str(phone) for id_, phone in cursor.fetchall()}
        refused = _refused(cursor, _owner(cursor, task_id), phones)
        some = {id_: place for id_, place in some.items() if id_ in refused}
    if chosen.edited:
        stands = present(cursor, list(some))
        some = {id_: place for id_, place in some.items() if id_ in stands and stands[id_].change}
    return some


def _some(
    cursor: Cursor,
    task_id: int,
    chosen: CallFilter,
    sort: str,
    after: str,
    until: str,
    limit: int,
    backwards: bool,
    skip: int = 0,
) -> dict[int, str]:
    """As :func:`_places`, of rows that may be meant, none behind ``until``, without the first ``skip`` ones."""
    key, way = SORTS[sort]
    way = _BACKWARDS[way] if backwards else way
    joins, conditions, values = _conditions(chosen)
    if chosen.opted_out:
        conditions.append(_MAY_REFUSE)
        values.append(_owner(cursor, task_id))
    of_ledger: tuple[int, ...] = ()
    if chosen.to_read:
        joins, of_ledger = f" JOIN {_OF_LEDGER.format('a.task_id = %s')} w ON w.list_id = l.id{joins}", (task_id,)
    sign, mark = "<" if way == "DESC" else ">", "CAST(%s AS DATETIME(6))" if key == _TIME else "%s"
    behind = f"({key} {sign} {mark} OR ({key} = {mark} AND l.id {sign} %s))"
    for place, condition in ((after, behind), (until, f"NOT {behind}")):
        if place:
            value, _, id_ = place.rpartition("~")
            told = datetime.fromisoformat(value) if key == _TIME else int(value)
            conditions.append(condition)
            values += [told, told, int(id_)]
    cursor.execute(
        f"SELECT l.id, {key} FROM leads_task_list l{joins} WHERE l.task_id = %s AND {CALLED}"
        + "".join(f" AND {condition}" for condition in conditions)
        + f" ORDER BY {key} {way}, l.id {way} LIMIT {int(limit)} OFFSET {int(skip)}",
        (*of_ledger, task_id, *values),
    )
    return {int(id_): f"{value}~{id_}" for id_, value in cursor.fetchall()}


def _conditions(chosen: CallFilter) -> tuple[str, list[str], list[Any]]:
    joins, conditions, values = "", list[str](), list[Any]()
    if chosen.interest is not None:
        conditions.append("l.is_interested = %s")
        values.append(str(chosen.interest))
    if chosen.status:
        conditions.append(f"NOT {needs.is_final()}" if chosen.status == "open" else needs.is_status(chosen.status))
    if chosen.failed:
        joins += f" JOIN call_follow_ups k ON k.list_id = l.id AND {SAME_CALL.format('k')} AND k.outcome = 'failed'"
    if chosen.edited:
        joins += _WRITTEN
        conditions.append(f"NOT {needs.UNLINKED} AND NOT COALESCE({_AS_WRITTEN}, FALSE)")
    if chosen.to_read:
        conditions += [f"{_WORTH} > 0", _UNSEEN, f"NOT {needs.UNLINKED}"]
    if chosen.day:
        conditions.append(f"{CALLED_AT} >= %s AND {CALLED_AT} < %s")
        values += [chosen.day, chosen.day + timedelta(days=1)]
    if chosen.words:
        # A transcript may hold its characters as JSON escapes them.
        escaped = "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in chosen.words)
        joins += " LEFT JOIN dcc_leads_follow m ON m.id = CAST(l.leads_follow_id AS UNSIGNED)"
        # Where there is no upper and lower case, bytes are compared: that takes a third of the time.
        text = _TEXT if chosen.words.lower() == chosen.words.upper() else "CONVERT({} USING utf8mb4)"
        said, remarked = text.format("l.call_conversation"), text.format("m.leads_remark")
        conditions.append(f"({said} LIKE %s OR {said} LIKE %s OR {remarked} LIKE %s)")
        values += [_like(chosen.words), _like(escaped), _like(chosen.words)]
    return joins, conditions, values


def _like(words: str) -> str:
    for special in "\\%_":
        words = words.replace(special, f"\\{special}")
    return f"%{words}%"


def _owner(cursor: Cursor, task_id: int) -> str:
    task = tasks.load(cursor, task_id)
    return task.organization_id if task else ""


def _refused(cursor: Cursor, organization_id: str, phones: Mapping[int, str]) -> set[int]:
    """The rows, with what their phone fields hold, whose numbers the organisation does not call."""
    numbers = {id_: number for id_, phone in phones.items() if (number := e164(phone))}
    refusing = opt_outs.refusing(cursor, organization_id, set(numbers.values()))
    return {id_ for id_, number in numbers.items() if number in refusing}


def _load(cursor: Cursor, ids: list[int]) -> list[Call]:
    """The calls of these rows of a task, in this order."""
    if not ids:
        return []
    cursor.execute(
        "SELECT l.id, l.task_id, l.call_job_id, l.leads_id, COALESCE(l.leads_name, ''), COALESCE(l.leads_phone, ''),"
        f" COALESCE(l.call_status, ''), {CALLED_AT}, COALESCE(k.outcome, ''), {needs.RECORDED},"
        f" {_WORTH} FROM leads_task_list l LEFT JOIN call_follow_ups k ON k.list_id = l.id AND {SAME_CALL.format('k')}"
        f" LEFT JOIN {_OF_LEDGER.format(f'a.list_id IN ({marks(len(ids))})')} w ON w.list_id = l.id"
        f" WHERE l.id IN ({marks(len(ids))}) AND {CALLED}",
        ids * 2,
    )
    rows = {int(row[0]): row for row in cursor.fetchall()}
    stands = present(cursor, list(rows))
    task_id = next((int(row[1]) for row in rows.values()), 0)
    refused = _refused(cursor, _owner(cursor, task_id), {id_: str(row[5]) for id_, row in rows.items()})
    return [
        Call(
            id=id_,
            task_id=int(row[1]),
            call_job_id=str(row[2]),
            leads_id=str(row[3]),
            name=str(row[4]),
            phone=str(row[5]),
            call_status=final_status(str(row[6])),
            called_at=moment(row[7]),
            is_interested=stands[id_].is_interested,
            outcome=str(row[8]),
            recorded=bool(row[9]),
            opted_out=id_ in refused,
            worth=int(row[10]),
            follow_up=stands[id_],
        )
        for id_ in ids
        if (row := rows.get(id_))
    ]
