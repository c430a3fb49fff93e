"""Every state that a batch, its group, its listing and its answer can be in: who was taken is never claimed again, and
who was not is claimed, fails after its tries, or is held back for a reason that is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Any

import pytest

from activities.claims import MOST_TRIES, Claimed, claim, standing
from activities.holdings import GroupReading
from calltasks.database.tables.dispatches import group_name
from calltasks.rules.pairing import IdentifiedJob
from devstack.mariadb import EmbeddedMariaDB
from tests.pipeline import phone

LEADS = (1, 2, 3)
GRACE = 100.0
LISTED = ("by reference", "by number", "by both", "by neither")
LEDGER = ("aged", "fresh", "unsent", "lost")
"""A batch without an answer beyond its grace, or within; one that never left; none, though all may have been sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    taken: tuple[int, ...]
    listed: str
    whole: bool
    ledger: str
    tries: int
    matched: bool
    """The jobs that are listed are saved with their rows already."""


def states() -> Iterator[State]:
    subsets = list(chain.from_iterable(combinations(LEADS, size) for size in range(len(LEADS) + 1)))
    for taken, listed, whole, ledger, tries, matched in product(
        subsets, LISTED, (True, False), LEDGER, (0, MOST_TRIES), (True, False)
    ):
        if ledger == "unsent" and taken:
            continue  # It certainly did not leave.
        if ledger == "lost" and tries:
            continue
        yield State(taken=taken, listed=listed, whole=whole, ledger=ledger, tries=tries, matched=matched)


@pytest.fixture
def cursor(mariadb: EmbeddedMariaDB, database_url: str) -> Iterator[Any]:
    with mariadb.connect(database_url.rsplit("/", 1)[1]) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO call_tasks (id, organization_id, task_type, job_group_id, create_time)"
            " VALUES (1, 'o', 1, 'g', '2026-01-01')"
        )
        yield cursor


def reading(state: State) -> GroupReading | None:
    if not state.whole:
        return None
    names, numbers = state.listed in ("by reference", "by both"), state.listed in ("by number", "by both")
    return GroupReading(
        jobs=[
            IdentifiedJob(
                job_id=f"j{lead}",
                reference_id=f"r{lead}" if names else "",
                phone=f"+86 {phone(lead)}" if numbers else "",
            )
            for lead in state.taken
        ],
        error="",
    )


def left_behind(cursor: Any, state: State) -> None:
    cursor.execute("DELETE FROM leads_task_list")
    cursor.execute("DELETE FROM call_dispatches")
    for lead in LEADS:
        job = f"j{lead}" if state.matched and lead in state.taken else ""
        cursor.execute(
            "INSERT INTO leads_task_list (id, task_id, leads_id, leads_phone, reference_id, call_job_id, call_time)"
            " VALUES (%s, 1, %s, %s, %s, %s, '2026-01-01')",
            (lead, lead, phone(lead), f"r{lead}", job),
        )
    if state.ledger != "lost":
        attempted = {
            "aged": "UTC_TIMESTAMP(6) - INTERVAL 1 HOUR",
            "fresh": "UTC_TIMESTAMP(6)",
            "unsent": "'2000-01-01'",
        }
        cursor.execute(
            "INSERT INTO call_dispatches (task_id, job_group_id, first_id, last_id, tries, attempted_at)"
            f" VALUES (1, 'g', 1, 3, %s, {attempted[state.ledger]})",
            (state.tries,),
        )


def step(cursor: Any, state: State) -> Claimed:
    """As the activity goes about it."""
    list_first = state.ledger == "lost"
    cursor.execute("START TRANSACTION")
    open_ = standing(cursor, 1, "g", grace=GRACE, list_first=list_first)
    found = reading(state) if open_.known is not None else None
    ripe = [one.id for one in open_.unresolved if one.unsent or (found and one.age >= GRACE)]
    claimed = claim(cursor, 1, "g", grace=GRACE, ripe=ripe, reading=found, list_first=list_first)
    cursor.execute("COMMIT")
    return claimed


def test_whoever_was_taken_is_never_claimed_again(cursor: Any) -> None:
    count = 0
    for state in states():
        count += 1
        left_behind(cursor, state)
        claimed = step(cursor, state)
        again = step(cursor, state)
        sent = [row.id for one in claimed.claims for row in one.rows]
        cursor.execute("SELECT id FROM leads_task_list WHERE call_status = 'Failed'")
        failed = {int(row[0]) for row in cursor.fetchall()}
        missing = set(LEADS) - set(state.taken)
        assert len(sent) == len(set(sent)) and set(sent) <= missing, state
        assert not failed & set(state.taken), state
        assert not again.claims, state
        nameless = state.listed == "by neither" and state.taken and not state.matched
        if state.ledger == "unsent":
            expected = set() if state.tries else missing
        elif state.ledger == "fresh" or not state.whole or nameless:
            expected = set()
            assert claimed.waiting or state.ledger == "lost", state
            assert claimed.unclaimed == (
                len(state.taken) if nameless and state.whole and state.ledger != "fresh" else 0
            )
        else:
            expected = set() if state.tries else missing
        assert set(sent) == expected, state
        assert failed == (missing if state.tries and expected == set() and not claimed.waiting else set()), state
    assert count > 300


def test_a_zero_date_makes_no_name() -> None:
    assert group_name(7, "0000-00-00 00:00:00") == "call-task-7"  # type: ignore[arg-type]
