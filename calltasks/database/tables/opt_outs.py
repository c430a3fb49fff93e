"""``call_opt_outs``: which numbers no campaign of an organisation calls any more, by whose word, and who lifted it
(rules 11.3 to 11.6).

A number stands once in an organisation. A call enters its number once, ever: what a person has lifted, no other
judgement of the same call enters again. An entry that a later judgement of its call disputes stands on; whoever else
refuses then takes its place.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, flat, marks
from calltasks.database.tables.analyses import FollowUp, present
from calltasks.database.tables.follow_up_events import tell_opt_outs
from calltasks.database.tables.tasks import load
from calltasks.rules.phones import e164

log = logging.getLogger(__name__)

CALL = "call"
PERSON = "person"
IMPORT = "import"
SUPERSEDED = "disputed, and refused again by somebody else's word"
"""Why an entry was lifted whose place another one took."""
Kind = Literal["standing", "disputed", "lifted", "all"]
_KINDS: dict[Kind, str] = {
    "standing": "standing = 1",
    "disputed": "standing = 1 AND disputed_at IS NOT NULL",
    "lifted": "standing IS NULL",
    "all": "TRUE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A number that is not to be called any more, and by whose word.

    Attributes:
        phone: in E.164.
        source: ``call``, ``person`` or ``import``.
        evidence: the customer's sentence, or the reason that a person gave.
        created_by: who entered it; ``""``: a call.
        task_id, list_id, call_job_id: of the call.
    """

    phone: str
    source: str
    evidence: str
    created_by: str = ""
    task_id: int | None = None
    list_id: int | None = None
    call_job_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptOut(Refusal):
    """An entry. Times are UTC, naive.

    Attributes:
        standing: it holds; if not, a person has lifted it.
        disputed_at: since when the last judgement of its call finds no refusal in it.
    """

    id: int
    standing: bool
    created_at: datetime
    disputed_at: datetime | None
    lifted_at: datetime | None
    lifted_by: str | None
    lift_reason: str | None


_NAMES = [field.name for field in fields(OptOut)]
_SELECT = f"SELECT {', '.join(_NAMES)} FROM call_opt_outs WHERE organization_id = %s"


def _read(cursor: Cursor) -> list[OptOut]:
    found = [dict(zip(_NAMES, row, strict=True)) for row in cursor.fetchall()]
    return [OptOut(**one | {"standing": one["standing"] is not None}) for one in found]


# --- in the transaction of a follow-up ------------------------------------------------------------------------------


def heed(cursor: Cursor, task_id: int, judgements: Sequence[FollowUp], *, now_utc: datetime) -> list[OptOut]:
    """Enter the numbers whose customers refuse further calls, inside the transaction that writes what was judged.

    What was entered by one of these calls, and is not found in it any more, is disputed; found again, it is not. What a
    person has entered of a call is a person's word, which no judgement disputes and beside which none enters anything.

    Args:
        cursor: inside a transaction that has locked the rows.
        task_id: the rows' task.
        judgements: at most one a row.
        now_utc: UTC, naive.

    Returns:
        What was newly entered.
    """
    judged = {(one.list_id, one.call_job_id): one for one in judgements if one.outcome == "analysed"}
    if not judged:
        return []
    cursor.execute(
        "SELECT id, list_id, call_job_id, standing = 1 AND source = %s, disputed_at IS NOT NULL FROM call_opt_outs"
        f" WHERE list_id IN ({marks(len(judged))}) ORDER BY id",
        [CALL, *(list_id for list_id, _ in judged)],
    )
    own = {(int(row[1]), str(row[2])): row for row in cursor.fetchall() if (row[1], row[2]) in judged}
    refused = {call for call, one in judged.items() if one.do_not_call}
    standing = {call: (int(row[0]), bool(row[4])) for call, row in own.items() if row[3]}
    _dispute(
        cursor, [id_ for call, (id_, disputed) in standing.items() if call not in refused and not disputed], now_utc
    )
    _dispute(cursor, [id_ for call, (id_, disputed) in standing.items() if call in refused and disputed], None)
    new = [judged[call] for call in sorted(refused - own.keys())]
    return _enter_calls(cursor, task_id, new, now_utc) if new else []


def heed_alone(cursor: Cursor, task_id: int, judgements: Sequence[FollowUp], *, now_utc: datetime) -> None:
    """As :func:`heed`, and tell it, inside a transaction of its own: the CRM does not take the follow-ups."""
    rows = present(cursor, sorted(one.list_id for one in judgements), lock=True)
    same = [one for one in judgements if one.list_id in rows and rows[one.list_id].call_job_id == one.call_job_id]
    tell_opt_outs(cursor, task_id, heed(cursor, task_id, same, now_utc=now_utc))


def _dispute(cursor: Cursor, ids: Sequence[int], since: datetime | None) -> None:
    if ids:
        cursor.execute(f"UPDATE call_opt_outs SET disputed_at = %s WHERE id IN ({marks(len(ids))})", (since, *ids))


def _enter_calls(cursor: Cursor, task_id: int, judged: Sequence[FollowUp], now_utc: datetime) -> list[OptOut]:
    task = load(cursor, task_id)
    cursor.execute(
        # The number that was dialled: the CRM may have another one by now.
        "SELECT l.id, c.phone, l.leads_phone FROM leads_task_list l LEFT JOIN call_contacts c"
        f" ON c.list_id = l.id AND c.task_id = l.task_id WHERE l.id IN ({marks(len(judged))})",
        [one.list_id for one in judged],
    )
    phones = {int(id_): e164(str(dialled or stored or "")) for id_, dialled, stored in cursor.fetchall()}
    if unknown := sum(task is None or not phones.get(one.list_id) for one in judged):
        log.warning(
            "task %d: %d customers refuse further calls, and what their rows hold for a phone number is none: nothing"
            " keeps other campaigns from calling them",
            *(task_id, unknown),
        )
    refusals = [
        Refusal(
            phone=phones[one.list_id],
            source=CALL,
            evidence=one.do_not_call,
            task_id=task_id,
            list_id=one.list_id,
            call_job_id=one.call_job_id,
        )
        for one in judged
        if phones.get(one.list_id)
    ]
    return enter(cursor, task.organization_id, refusals, now_utc=now_utc) if task else []


# --- entering and lifting ---------------------------------------------------------------------------------------------

_ENTRY = (
    *("organization_id", "phone", "source", "evidence", "created_by", "task_id", "list_id", "call_job_id"),
    "created_at",
)


def enter(cursor: Cursor, organization_id: str, refusals: Sequence[Refusal], *, now_utc: datetime) -> list[OptOut]:
    """Enter numbers that do not stand yet, inside a transaction; of several refusals of a number the first.

    Numbers are locked in their order, and those that stand are not locked at all: whoever enters them at the same time
    waits, and does not stand in the other's way.

    Returns:
        What was newly entered.
    """
    wanted: dict[str, Refusal] = {}
    for one in refusals:
        wanted.setdefault(one.phone, one)
    rows = [
        (
            *(organization_id, one.phone, one.source, one.evidence, one.created_by),
            *(one.task_id, one.list_id, one.call_job_id, now_utc),
        )
        for _, one in sorted(wanted.items())
    ]
    entered: list[OptOut] = []
    for part in bulks(rows):
        there = {one.phone: one for one in _standing(cursor, organization_id, [row[1] for row in part])}
        disputed = {phone for phone, one in there.items() if one.disputed_at}
        _supersede(cursor, organization_id, sorted(disputed), now_utc)
        if missing := [row for row in part if row[1] not in there or row[1] in disputed]:
            cursor.execute(
                f"INSERT INTO call_opt_outs ({', '.join(_ENTRY)}) VALUES "
                + ", ".join([f"({marks(len(_ENTRY))})"] * len(missing))
                + " ON DUPLICATE KEY UPDATE standing = standing",
                flat(missing),
            )
            there |= {one.phone: one for one in _standing(cursor, organization_id, [row[1] for row in missing])}
        # Whoever was faster has entered it, not we; by the moment we know our own, also after a lost answer to COMMIT.
        entered += [one for one in there.values() if one.created_at == now_utc and _same(one, wanted[one.phone])]
    return entered


def _same(one: OptOut, wanted: Refusal) -> bool:
    names = ("source", "created_by", "list_id", "call_job_id")
    return all(getattr(one, name) == getattr(wanted, name) for name in names)


def _standing(cursor: Cursor, organization_id: str, phones: Sequence[str]) -> list[OptOut]:
    cursor.execute(
        f"{_SELECT} AND standing = 1 AND phone IN ({marks(len(phones))}) ORDER BY phone", (organization_id, *phones)
    )
    return _read(cursor)


def _supersede(cursor: Cursor, organization_id: str, phones: Sequence[str], now_utc: datetime) -> None:
    """Make room for another word on numbers whose entry is disputed."""
    if phones:
        cursor.execute(
            "UPDATE call_opt_outs SET standing = NULL, lifted_at = %s, lifted_by = '', lift_reason = %s"
            f" WHERE organization_id = %s AND standing = 1 AND phone IN ({marks(len(phones))})",
            (now_utc, SUPERSEDED, organization_id, *phones),
        )


def lift(cursor: Cursor, organization_id: str, phone: str, *, reason: str, by: str, now_utc: datetime) -> OptOut | None:
    """Let the number be called again; returns the entry as it is now, or None if none stood."""
    cursor.execute(
        "UPDATE call_opt_outs SET standing = NULL, lifted_at = %s, lifted_by = %s, lift_reason = %s"
        " WHERE organization_id = %s AND phone = %s AND standing = 1",
        (now_utc, by, reason, organization_id, phone),
    )
    # By the moment, for after a lost answer to COMMIT it is lifted already.
    cursor.execute(
        f"{_SELECT} AND phone = %s AND lifted_at = %s AND lifted_by = %s", (organization_id, phone, now_utc, by)
    )
    return next(iter(_read(cursor)), None)


# --- looking ----------------------------------------------------------------------------------------------------------


def standing(cursor: Cursor, organization_id: str, phone: str) -> OptOut | None:
    """The entry that keeps the number from being called, if one does."""
    return next(iter(_standing(cursor, organization_id, [phone])), None)


def refusing(cursor: Cursor, organization_id: str, phones: Collection[str]) -> set[str]:
    """Those of these numbers that the organisation does not call."""
    if not phones:
        return set()
    cursor.execute(
        "SELECT phone FROM call_opt_outs WHERE organization_id = %s AND standing = 1"
        f" AND phone IN ({marks(len(phones))})",
        (organization_id, *sorted(phones)),
    )
    return {str(row[0]) for row in cursor.fetchall()}


def page(
    cursor: Cursor, organization_id: str, *, kind: Kind = "standing", after: int = 0, limit: int = 1000
) -> list[OptOut]:
    """Entries of the organisation in the order in which they were made, behind the one with the id ``after``."""
    values: tuple[Any, ...] = (organization_id, after, limit)
    cursor.execute(f"{_SELECT} AND {_KINDS[kind]} AND id > %s ORDER BY id LIMIT %s", values)
    return _read(cursor)
