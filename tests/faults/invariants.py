"""The promise, checked after every run: nobody dialled twice, no follow-up lost or doubled, nothing ever taken back.

| letter | what holds |
| --- | --- |
| D | nobody is dialled twice, by the platform's own record, over all its groups |
| F | exactly one follow-up a called row, linked both ways, none without a row |
| T | `task_type` only rises |
| S | a final status, a job id, a conversation, a link never go back to less |
| A | what was acknowledged, or seen once, survives |
| P | no phone number, name, transcript or key in logs, histories or error texts |
| C | the campaign completes |

`Observer` watches T, S and A while things go wrong; `check` looks at the rest at the end and raises one error that
lists everything that does not hold.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pymysql
from pymysql.cursors import DictCursor
from sqlalchemy import make_url
from temporalio.client import Client, WorkflowHistory

from simulators import ACCESS_KEY_ID, ACCESS_KEY_SECRET, DASHSCOPE_API_KEY

FINAL = frozenset({"Succeeded", "Failed", "Cancelled"})
SPOKEN = 8
"""Characters: shorter sentences ("好的。") prove nothing when they turn up in a log."""

Row = dict[str, Any]
Truth = Mapping[str, Sequence[Row]]
"""The platform's own record: the jobs of each of its groups, by group id (`/_sim/groups/{id}/jobs`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excused:
    """What a scenario did by its own hand, and is therefore not held against the program.

    Attributes:
        follow_ups: follow-ups that a person deleted.
        tasks: tasks that need not complete, for instance because a person deleted them.
        jobs: job ids whose platform record changed (a final status that flipped, a deleted group).
        unlisted: jobs that the platform never showed need no row.
        judgements: the model was faulty, so analyses may have failed.
    """

    follow_ups: frozenset[int] = frozenset()
    tasks: frozenset[int] = frozenset()
    jobs: frozenset[str] = frozenset()
    unlisted: bool = False
    judgements: bool = False


@dataclass(slots=True)
class Findings:
    """What does not hold, and the figures of the run."""

    violations: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)

    def add(self, letter: str, text: str) -> None:
        self.violations.append(f"{letter}: {text}")

    def raise_any(self) -> None:
        """AssertionError with everything that does not hold; nothing if all does."""
        assert not self.violations, f"{len(self.violations)} violations\n" + "\n".join(self.violations[:40])


def connect(database_url: str) -> pymysql.Connection[DictCursor]:
    """A connection of the checker's own."""
    url = make_url(database_url)
    return pymysql.connect(
        host=url.host or "",
        port=url.port or 3306,
        user=url.username or "",
        password=url.password or "",
        database=url.database,
        cursorclass=DictCursor,
        autocommit=True,
        charset="utf8mb4",
        connect_timeout=5,
        read_timeout=30,
        ssl_disabled=True,
    )


def select(connection: pymysql.Connection[DictCursor], statement: str, *values: Any) -> list[Row]:
    """The rows of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


# --- while it runs: T, S, A -----------------------------------------------------------------------------------------


class Observer:
    """Samples the tables from a thread of its own, and remembers every step back.

    Use it as a context manager; a database that is out of reach is waited for. `samples` counts the looks.
    """

    def __init__(self, database_url: str, *, every: float = 0.1, excused: Excused | None = None) -> None:
        self._url = database_url
        self._every = every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)
        self._types: dict[int, int] = {}
        self._rows: dict[int, Row] = {}
        self._follow_ups: set[int] = set()
        self._groups: dict[int, str] = {}
        self._lock = threading.Lock()
        self.excused = excused or Excused()
        self.findings = Findings()
        self.samples = 0
        self.outages = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join(60)

    def look(self) -> None:
        """Look once more, now, in the calling thread."""
        connection = connect(self._url)
        try:
            self._look(connection)
        finally:
            connection.close()

    def _watch(self) -> None:
        connection: pymysql.Connection[DictCursor] | None = None
        while not self._stopped.wait(self._every):
            try:
                connection = connection or connect(self._url)
                self._look(connection)
            except (pymysql.MySQLError, OSError):
                self.outages += 1
                connection = None
        if connection is not None:
            connection.close()

    def _look(self, connection: pymysql.Connection[DictCursor]) -> None:
        with self._lock:
            # Follow-ups first: what is linked later than this look is simply seen at the next one.
            tasks = select(connection, "SELECT id, task_type, COALESCE(job_group_id, '') AS job_group FROM call_tasks")
            rows = select(
                connection,
                "SELECT id, task_id, COALESCE(call_job_id, '') AS job, COALESCE(call_status, '') AS status,"
                " CHAR_LENGTH(COALESCE(call_conversation, '')) AS said, leads_follow_id AS follow_up,"
                " is_interested AS interest, COALESCE(recording_url, '') AS recording FROM leads_task_list",
            )
            follow_ups = {row["id"] for row in select(connection, "SELECT id FROM dcc_leads_follow")}
            self.samples += 1
            self._compare_tasks(tasks)
            self._compare_rows(rows)
            for lost in self._follow_ups - follow_ups - self.excused.follow_ups:
                self.findings.add("A", f"follow-up {lost} was there and is gone")
            self._follow_ups = follow_ups

    def _compare_tasks(self, tasks: Iterable[Row]) -> None:
        types = {task["id"]: task["task_type"] for task in tasks}
        for task_id, before in self._types.items():
            if task_id in self.excused.tasks:
                continue
            if task_id not in types:
                self.findings.add("A", f"task {task_id} is gone")
            elif types[task_id] < before:
                self.findings.add("T", f"task {task_id} fell from type {before} to {types[task_id]}")
        for task in tasks:
            group = self._groups.setdefault(task["id"], task["job_group"])
            if group and task["job_group"] != group:
                self.findings.add("S", f"task {task['id']} changed its job group")
            self._groups[task["id"]] = task["job_group"]
        self._types = types

    def _compare_rows(self, rows: Iterable[Row]) -> None:
        seen = {row["id"]: row for row in rows}
        for id_, before in self._rows.items():
            now = seen.get(id_)
            if before["task_id"] in self.excused.tasks:
                continue
            if now is None:
                self.findings.add("A", f"row {id_} is gone")
                continue
            for what in steps_back(before, now, self.excused):
                self.findings.add("S", f"row {id_}: {what}")
        for row in seen.values():
            if row["status"] and row["status"] not in FINAL:
                self.findings.add("S", f"row {row['id']} shows a status that is not final: {row['status']}")
        self._rows = seen


def steps_back(before: Row, now: Row, excused: Excused) -> Iterator[str]:
    """What of a row is less than it was."""
    if before["job"] and now["job"] != before["job"]:
        yield "its job id changed"
    if before["status"] != now["status"] and before["status"]:
        taken_back = not before["job"] and before["status"] == "Failed" and now["job"]
        if not taken_back and now["status"] != "Succeeded":
            yield f"its status went from {before['status']} to {now['status'] or 'none'}"
    if now["said"] < before["said"]:
        yield f"its conversation shrank from {before['said']} to {now['said']} characters"
    if (
        before["follow_up"]
        and now["follow_up"] != before["follow_up"]
        and before["follow_up"] not in excused.follow_ups
    ):
        yield f"its follow-up changed from {before['follow_up']} to {now['follow_up']}"
    if before["interest"] is not None and now["interest"] is None:
        yield "its interest was forgotten"
    if before["recording"] and not now["recording"]:
        yield "its recording was forgotten"


# --- at the end -----------------------------------------------------------------------------------------------------


async def check(
    *,
    database_url: str,
    tasks: Mapping[int, int],
    stats: Mapping[str, Any],
    truth: Truth,
    client: Client | None = None,
    logs: Iterable[str] = (),
    observer: Observer | None = None,
    excused: Excused | None = None,
    secrets: Iterable[str] = (),
) -> Counter[str]:
    """Check D, F, T, S, A, P and C after a run.

    Args:
        database_url: the CRM's database.
        tasks: the tasks that were acknowledged, and how many leads each had.
        stats: `/_sim/stats`.
        truth: every group of the platform.
        client: of the namespace whose histories are searched.
        logs: the text of each log.
        observer: that watched the run; stopped.
        excused: what a scenario did itself.
        secrets: further texts that must not turn up anywhere.

    Returns:
        The figures of the run.

    Raises:
        AssertionError: everything that does not hold.
    """
    excused = excused or (observer.excused if observer else Excused())
    findings = Findings()
    if observer is not None:
        await asyncio.to_thread(observer.look)
        findings.violations += list(dict.fromkeys(observer.findings.violations))
        findings.figures["samples"] = observer.samples
    connection = await asyncio.to_thread(connect, database_url)
    try:
        rows = select(connection, "SELECT * FROM leads_task_list ORDER BY id")
        types = {row["id"]: row["task_type"] for row in select(connection, "SELECT id, task_type FROM call_tasks")}
        follow_ups = select(connection, "SELECT id, leads_id FROM dcc_leads_follow")
        check_dials(findings, stats, truth)
        check_follow_ups(findings, connection, rows, follow_ups, excused)
        check_complete(findings, tasks, types, rows, excused)
        check_against_the_platform(findings, rows, tasks, truth, excused)
        private = private_texts(connection, rows, [*secrets, str(make_url(database_url).password)])
        texts = [(f"log {number}", text) for number, text in enumerate(logs, 1)]
        if client is not None:
            texts += [
                (f"history of {history.workflow_id}", "\n".join(decoded(history)))
                for history in await histories(client)
            ]
        texts += [("error codes", errors(connection))]
    finally:
        connection.close()
    for where, text in texts:
        for found in [private_text for private_text in private if private_text in text][:3]:
            findings.add("P", f"{where} holds {found!r}")
    findings.figures.update(leads=len(rows), follow_ups=len(follow_ups), dialled=sum(map(len, truth.values())))
    findings.raise_any()
    return findings.figures


def check_dials(findings: Findings, stats: Mapping[str, Any], truth: Truth) -> None:
    """D."""
    for dial in stats["dialled_twice"]:
        findings.add("D", f"{dial['reference_id']} was dialled {dial['dials']} times in {dial['group_name']}")
    dials = Counter(job["reference_id"] for jobs in truth.values() for job in jobs if job["reference_id"])
    for reference, count in dials.items():
        if count > 1:
            findings.add("D", f"{reference} was dialled {count} times, over all groups")


def check_follow_ups(
    findings: Findings,
    connection: pymysql.Connection[DictCursor],
    rows: Sequence[Row],
    follow_ups: Sequence[Row],
    excused: Excused,
) -> None:
    """F."""
    owners = {row["id"]: row["leads_id"] for row in follow_ups}
    linked = Counter(row["leads_follow_id"] for row in rows if row["leads_follow_id"])
    for follow_up, count in linked.items():
        if count > 1:
            findings.add("F", f"follow-up {follow_up} belongs to {count} rows")
    for row in rows:
        follow_up = row["leads_follow_id"]
        if follow_up and follow_up not in owners and follow_up not in excused.follow_ups:
            findings.add("F", f"row {row['id']} points to follow-up {follow_up}, which does not exist")
        if follow_up in owners and owners[follow_up] != row["leads_id"]:
            findings.add("F", f"row {row['id']} points to a follow-up of another lead")
        if row["call_job_id"] and row["task_id"] not in excused.tasks and not follow_up:
            findings.add("F", f"row {row['id']} ({row['call_status']}) was called and has no follow-up")
        if not row["call_job_id"] and follow_up:
            findings.add("F", f"row {row['id']} was not called and has a follow-up")
    known = {row["id"] for row in rows}
    ledger = select(connection, "SELECT list_id, follow_id, task_id FROM call_follow_ups")
    made = {entry["follow_id"]: entry for entry in ledger}
    for id_ in owners:
        if id_ not in linked and made.get(id_, {}).get("task_id") not in excused.tasks:
            findings.add("F", f"follow-up {id_} has no row")
    links = {row["id"]: row["leads_follow_id"] for row in rows}
    for entry in ledger:
        if entry["list_id"] in known and links[entry["list_id"]] != entry["follow_id"]:
            findings.add("F", f"the ledger and row {entry['list_id']} name different follow-ups")


def check_complete(
    findings: Findings, tasks: Mapping[int, int], types: Mapping[int, int], rows: Sequence[Row], excused: Excused
) -> None:
    """A and C, as far as the tables tell."""
    counts = Counter(row["task_id"] for row in rows)
    for task_id, leads in tasks.items():
        if task_id in excused.tasks:
            continue
        if counts[task_id] != leads:
            findings.add("A", f"task {task_id} was created with {leads} leads and has {counts[task_id]}")
        if types.get(task_id) != 4:
            findings.add("C", f"task {task_id} ended at type {types.get(task_id)}")
    for row in rows:
        if row["task_id"] in excused.tasks or row["task_id"] not in tasks:
            continue
        if row["call_status"] not in FINAL:
            findings.add("C", f"row {row['id']} ended as {row['call_status'] or 'nothing'}")
        if row["call_job_id"] and row["is_interested"] is None:
            findings.add("C", f"row {row['id']} was never judged")


def check_against_the_platform(
    findings: Findings, rows: Sequence[Row], tasks: Mapping[int, int], truth: Truth, excused: Excused
) -> None:
    """A: every job of the platform has its row, and the row says what the platform's record says."""
    jobs = {job["job_id"]: job for group in truth.values() for job in group}
    owners = Counter(row["call_job_id"] for row in rows if row["call_job_id"])
    for job_id, count in owners.items():
        if count > 1:
            findings.add("S", f"job {job_id} belongs to {count} rows")
        if job_id not in jobs and job_id not in excused.jobs:
            findings.add("A", f"job {job_id} is unknown to the platform")
    if not excused.unlisted and not excused.tasks:
        for job_id in jobs.keys() - owners.keys():
            findings.add("A", f"job {job_id} was dialled and has no row")
    for row in rows:
        job = jobs.get(row["call_job_id"])
        if job is None or job["flips"] or job["job_id"] in excused.jobs or row["task_id"] in excused.tasks:
            continue
        if row["reference_id"] and job["reference_id"] and row["reference_id"] != job["reference_id"]:
            findings.add("S", f"row {row['id']} has the job of another lead")
        if row["call_status"] != job["status"]:
            findings.add("A", f"row {row['id']} says {row['call_status']}, the platform {job['status']}")
        said = json.loads(row["call_conversation"] or "[]")
        if len(said) < len(job["transcript"]):
            findings.add("A", f"row {row['id']} has {len(said)} of {len(job['transcript'])} turns")


# --- P --------------------------------------------------------------------------------------------------------------


def private_texts(connection: pymysql.Connection[DictCursor], rows: Sequence[Row], secrets: Iterable[str]) -> set[str]:
    """What must not turn up in any log, history or error text."""
    texts = {ACCESS_KEY_ID, ACCESS_KEY_SECRET, DASHSCOPE_API_KEY, *secrets}
    for person in select(connection, "SELECT leads_user_name AS name, leads_user_phone AS phone FROM dcc_leads"):
        texts |= {person["name"] or "", person["phone"] or ""}
    for row in rows:
        texts |= {row["leads_name"] or "", row["leads_phone"] or ""}
        for turn in json.loads(row["call_conversation"] or "[]"):
            if isinstance(turn, dict) and len(str(turn.get("Script") or "")) >= SPOKEN:
                texts.add(str(turn["Script"]))
    for follow_up in select(connection, "SELECT leads_remark FROM dcc_leads_follow"):
        # Fixed remarks of rule 6.4 say nothing about anybody.
        if follow_up["leads_remark"] and not follow_up["leads_remark"].endswith("；"):
            texts.add(follow_up["leads_remark"])
    return {text for text in texts if len(text) >= 2 and text != "None"}


def errors(connection: pymysql.Connection[DictCursor]) -> str:
    """Every error code that the program wrote into its own tables."""
    codes = select(connection, "SELECT error_code FROM call_retries UNION SELECT error_code FROM call_analyses")
    return "\n".join(row["error_code"] for row in codes)


async def histories(client: Client) -> list[WorkflowHistory]:
    """Of every run of the client's namespace."""
    return [
        await client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        async for run in client.list_workflows()
    ]


def decoded(history: WorkflowHistory) -> Iterator[str]:
    """Every text of a history, payloads decoded."""

    def texts(value: Any, key: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from texts(inner, name)
        elif isinstance(value, list):
            for inner in value:
                yield from texts(inner, key)
        elif isinstance(value, str):
            yield base64.b64decode(value).decode("utf-8", "replace") if key == "data" else value

    yield from texts(history.to_json_dict())
