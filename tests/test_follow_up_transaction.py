"""The follow-up transaction, with crashes between its statements, run again by others, beside what people do to it.

A stateful property: whatever happens in whatever order, each row has at most one follow-up, linked both ways; a row
that was ever given one is given no other; what was committed stays.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar

import pymysql
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from calltasks.database import schema
from calltasks.database.tables import follow_ups as table
from calltasks.database.tables.analyses import FollowUp
from devstack.mariadb import EmbeddedMariaDB

ROWS = 6
NOW = datetime(2026, 11, 18, 14, 5)
UTC_NOW = datetime(2026, 11, 18, 6, 5)
IDS = st.lists(st.integers(1, ROWS), min_size=1, max_size=ROWS, unique=True)
OUTCOMES = st.sampled_from(["analysed", "default", "failed"])
CRASH = st.none() | st.integers(0, 9)


class Crashed(Exception):
    """The worker died before this statement."""


class DyingCursor:
    """Passes statements on; the connection is lost before statement number `dies_before`."""

    def __init__(self, cursor: Any, dies_before: int | None) -> None:
        self._cursor = cursor
        self._left = dies_before

    def execute(self, statement: str, values: Any = None) -> Any:
        if self._left is not None:
            if not self._left:
                raise Crashed
            self._left -= 1
        return self._cursor.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


class FollowUpTransactions(RuleBasedStateMachine):
    """What workers and people do to one task's rows."""

    server: ClassVar[EmbeddedMariaDB]
    database: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._requests = 0
        self._deleted: set[int] = set()
        self._unlinked: set[int] = set()
        self._made: dict[int, int] = {}
        self._reader = self.server.connect(self.database)
        with self._reader.cursor() as cursor:
            for name in ("leads_task_list", "dcc_leads_follow", "call_follow_ups", "call_analyses"):
                cursor.execute(f"DELETE FROM {name}")
            for id_ in range(1, ROWS + 1):
                cursor.execute(
                    "INSERT INTO leads_task_list (id, task_id, leads_id, call_job_id, call_status)"
                    " VALUES (%s, 1, %s, %s, 'Failed')",
                    # Two rows of one lead: ids alone tell their follow-ups apart.
                    (id_, 100 + id_ // 2, f"job-{id_}"),
                )

    def teardown(self) -> None:
        self._reader.close()

    def _select(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._reader.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def _transaction(self, write: Any, follow_ups: list[FollowUp], dies_before: int | None, **more: Any) -> None:
        """As the product runs it: what fails loses its connection. A crash after the last statement is one at COMMIT,
        whose answer nobody hears."""
        connection = self.server.connect(self.database)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                cursor.execute("START TRANSACTION")
                write(DyingCursor(cursor, dies_before), 1, follow_ups, now=NOW, now_utc=UTC_NOW, **more)
                cursor.execute("COMMIT")
        except Crashed:
            pass
        finally:
            connection._force_close()

    @rule(ids=IDS, outcome=OUTCOMES, dies_before=CRASH, interest=st.integers(0, 2))
    def follow_up(self, ids: list[int], outcome: str, dies_before: int | None, interest: int) -> None:
        self._transaction(table.create, judged(ids, outcome, interest), dies_before)

    @rule(ids=IDS, outcome=OUTCOMES, dies_before=CRASH, interest=st.integers(0, 2), again=st.booleans())
    def analyse_again(self, ids: list[int], outcome: str, dies_before: int | None, interest: int, again: bool) -> None:
        """A re-analysis; `again`: the one before, run once more."""
        self._requests += not (again and self._requests)
        before = {
            row[0]: row[1] for row in self._select("SELECT list_id, COUNT(*) FROM call_analyses GROUP BY list_id")
        }
        self._transaction(
            table.update, judged(ids, outcome, interest), dies_before, request_id=f"request-{self._requests}"
        )
        for id_, count in self._select("SELECT list_id, COUNT(*) FROM call_analyses GROUP BY list_id"):
            assert count <= before.get(id_, 0) + 1

    @precondition(lambda self: self._select("SELECT 1 FROM dcc_leads_follow LIMIT 1"))
    @rule(number=st.integers(0, ROWS))
    def a_person_deletes_one(self, number: int) -> None:
        ids = [row[0] for row in self._select("SELECT id FROM dcc_leads_follow ORDER BY id")]
        chosen = ids[number % len(ids)]
        self._deleted.add(chosen)
        self._select("DELETE FROM dcc_leads_follow WHERE id = %s", chosen)

    @rule(id_=st.integers(1, ROWS), column=st.sampled_from(["leads_follow_id", "is_interested"]))
    def a_link_gets_lost(self, id_: int, column: str) -> None:
        self._unlinked.add(id_)
        self._select(f"UPDATE leads_task_list SET {column} = NULL WHERE id = %s", id_)

    @invariant()
    def no_follow_up_is_doubled_or_without_its_row(self) -> None:
        links = dict(self._select("SELECT id, leads_follow_id FROM leads_task_list"))
        leads = dict(self._select("SELECT id, leads_id FROM leads_task_list"))
        owners = dict(self._select("SELECT id, leads_id FROM dcc_leads_follow"))
        ledger = dict(self._select("SELECT list_id, follow_id FROM call_follow_ups"))
        assert max(Counter(ledger.values()).values(), default=1) == 1
        assert set(owners) <= set(ledger.values()), "a follow-up that no row ever had"
        assert set(ledger.values()) - set(owners) <= self._deleted, "a follow-up was lost"
        for id_, follow_up in links.items():
            if follow_up is not None:
                assert ledger[id_] == follow_up
                assert follow_up in self._deleted or owners[follow_up] == leads[id_]
            else:
                assert id_ not in ledger or id_ in self._unlinked
        for id_, follow_up in self._made.items():
            assert ledger.get(id_) == follow_up, "a row was given another follow-up"
        self._made = ledger

    @invariant()
    def interest_and_follow_up_are_one(self) -> None:
        for id_, follow_up, interest in self._select("SELECT id, leads_follow_id, is_interested FROM leads_task_list"):
            assert id_ in self._unlinked or (follow_up is None) == (interest is None)


def judged(ids: list[int], outcome: str, interest: int) -> list[FollowUp]:
    return [
        FollowUp(
            list_id=id_, call_job_id=f"job-{id_}", outcome=outcome, is_interested=interest, leads_remark=f"第{id_}行"
        )
        for id_ in ids
    ]


@pytest.fixture
def machine(mariadb: EmbeddedMariaDB) -> Iterator[type[FollowUpTransactions]]:
    name = f"{mariadb.database}_{secrets.token_hex(6)}"
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{name}`")
        cursor.execute(f"USE `{name}`")
        schema.apply(cursor)
        FollowUpTransactions.server, FollowUpTransactions.database = mariadb, name
        try:
            yield FollowUpTransactions
        finally:
            cursor.execute(f"DROP DATABASE `{name}`")


def test_follow_ups_survive_crashes_between_all_statements(machine: type[FollowUpTransactions]) -> None:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=slow)
    )


def test_two_at_once_make_one(machine: type[FollowUpTransactions]) -> None:
    """The second waits for the first one's lock, then finds that all is done; without a lock it is refused."""
    running = machine()
    first, second = (machine.server.connect(machine.database) for _ in range(2))
    try:
        with first.cursor() as one, second.cursor() as two:
            for cursor in (one, two):
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
                cursor.execute("START TRANSACTION")
            assert table.create(one, 1, judged([1, 2], "analysed", 1), now=NOW, now_utc=UTC_NOW) == 2
            with pytest.raises(pymysql.err.OperationalError):
                table.create(two, 1, judged([2, 3], "analysed", 1), now=NOW, now_utc=UTC_NOW)
            two.execute("ROLLBACK")
            one.execute("COMMIT")
            two.execute("START TRANSACTION")
            assert table.create(two, 1, judged([2, 3], "analysed", 1), now=NOW, now_utc=UTC_NOW) == 1
            two.execute("COMMIT")
        running.no_follow_up_is_doubled_or_without_its_row()
    finally:
        first.close()
        second.close()
        running.teardown()
