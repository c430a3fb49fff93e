"""`make demo`: one campaign of 200 invented leads from creation to follow-up complete, before your eyes."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pymysql.cursors
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from devstack.database_programs import chosen_program
from devstack.listener import Listener
from devstack.processes import StackError, wait_until
from devstack.stack import Stack, ended_by_signals
from devstack.up import watch

LEADS = 200
ORGANIZATION = "demo-dealer"
# Twenty calls at a time, about forty seconds each, the day running twenty times as fast: some twenty seconds in all.
SIMULATION = (
    *("--seed", "7"),
    *("--time-scale", "20"),
    *("--concurrency", "20"),
    *("--seconds-per-call", "40"),
    *("--answer-rate", "0.5"),
    *("--transcript-lag", "20"),
    *("--recording-lag", "40"),
    *("--model-latency", "0.2,0.8"),
)
_SURNAMES = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦许何"
_GIVEN_NAMES = ("子涵", "雨桐", "建国", "晓明", "丽华", "志强", "思远", "佳怡", "文博", "秀英")
_INTEREST = {0: "无法判断", 1: "有意向", 2: "无意向"}
_EVENTS_WITHIN = 20.0  # Seconds; they are looked for every five.
_GIVE_UP_AFTER = 300.0  # Seconds without the end in sight: ten times what it takes.

_FOLLOW_UPS = """
    SELECT l.leads_name, l.call_status, l.is_interested, f.leads_remark, f.next_follow_time, a.evidence
    FROM leads_task_list l
    JOIN dcc_leads_follow f ON f.id = l.leads_follow_id
    JOIN call_analyses a ON a.id = (SELECT MAX(id) FROM call_analyses WHERE list_id = l.id)
    WHERE l.task_id = %s
    ORDER BY a.evidence = '', MOD(l.id * 37, 101), l.id
    LIMIT 10
"""
# A lead is accounted for by one follow-up that exists, or, if the platform never listed a job for it, by `Failed`.
_ACCOUNT = """
    SELECT COUNT(*) AS leads,
        COALESCE(SUM(l.call_job_id <> '' AND f.id IS NOT NULL AND l.is_interested IS NOT NULL), 0) AS follow_ups,
        COALESCE(SUM(COALESCE(l.call_job_id, '') = '' AND l.call_status = 'Failed'), 0) AS never_called
    FROM leads_task_list l
    LEFT JOIN dcc_leads_follow f ON f.id = l.leads_follow_id AND f.leads_id = l.leads_id
    WHERE l.task_id = %s
"""


def main() -> int:
    """Returns 0 if the task reached type 4 and every lead is accounted for, 1 if not, 130 after Ctrl-C."""
    console = Console(highlight=False)
    started = time.monotonic()
    try:
        console.print(f"Starting {chosen_program().name}, Temporal, the simulators and a worker …")
        with ended_by_signals(), Stack(simulator_arguments=SIMULATION) as stack, Listener() as listener:
            console.print(f"Running after {time.monotonic() - started:.1f} s. Temporal UI: {stack.temporal.ui_url}")
            complete = run_campaign(stack, console, listener)
            if os.environ.get("KEEP", "0") not in ("", "0"):
                keep(stack, console)
    except KeyboardInterrupt:
        console.print("Stopped and removed.")
        return 130
    except StackError as error:
        console.print(Text(str(error), style="red"))
        return 1
    return 0 if complete else 1


def run_campaign(stack: Stack, console: Console, listener: Listener) -> bool:
    """One campaign from its creation; prints how it goes and how it ended. Whether it ended as it should."""
    insert_leads(stack)
    created = stack.starter("create-task", "--organization", ORGANIZATION, "--name", "演示外呼", "--all-leads")
    task_id = int(created["task_id"])
    listener.secret = stack.starter("events", "subscribe", listener.url, "--organization", ORGANIZATION, "--batch")[
        "secret"
    ]
    started = time.monotonic()
    stack.starter("start-call", task_id)
    console.print(f"Call task {task_id} with {LEADS} leads is on its way.")
    progress = follow(stack, task_id, console)
    elapsed = time.monotonic() - started
    account = read(stack, _ACCOUNT, task_id)[0]
    task_type = read(stack, "SELECT task_type FROM call_tasks WHERE id = %s", task_id)[0]["task_type"]
    console.print(result_table(progress, task_type, account, elapsed))
    console.print(follow_up_table(read(stack, _FOLLOW_UPS, task_id)))
    show_events(listener, console)
    console.print(f"Workflow: {stack.temporal.workflow_url(f'call-task-{task_id}')}", soft_wrap=True)
    complete: bool = task_type == 4 and account["leads"] == LEADS == account["follow_ups"] + account["never_called"]
    if not complete:
        console.print(Text(f"Not complete: type {task_type}, {account}", style="bold red"))
        console.print(Text("\n".join(worker.log_tail() for worker in stack.workers)))
    return complete


def show_events(listener: Listener, console: Console) -> None:
    """What a backend was told of the campaign."""
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: bool(listener.one("task.complete")), _EVENTS_WITHIN, "the last event was told")
    console.print(f"Events told to a receiver: {len(listener.events)}, one of them:")
    console.print(Text(listener.one("follow_up.written") or "none", style="dim"), soft_wrap=True)


def keep(stack: Stack, console: Console) -> None:
    """Leave the stack running until Ctrl-C, which is the good end of it."""
    console.print(f"\nConsole: {stack.start_console(ORGANIZATION)}", soft_wrap=True)
    console.print("Kept running until Ctrl-C; to use it from another terminal:")
    console.print(stack.exports(), soft_wrap=True)
    try:
        watch(stack)
    except KeyboardInterrupt:
        console.print("Stopping …")


def leads() -> Iterator[tuple[int, str, str, str]]:
    """Invented people: id, organization, name, phone."""
    for number in range(1, LEADS + 1):
        surname = _SURNAMES[number % len(_SURNAMES)]
        given_name = _GIVEN_NAMES[number // len(_SURNAMES) % len(_GIVEN_NAMES)]
        yield number, ORGANIZATION, surname + given_name, str(13_900_000_000 + number)


def insert_leads(stack: Stack) -> None:
    with stack.mariadb.connect(stack.mariadb.database) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO dcc_leads (leads_id, organization_id, leads_user_name, leads_user_phone)"
            " VALUES (%s, %s, %s, %s)",
            list(leads()),
        )


def read(stack: Stack, sql: str, *parameters: object) -> list[dict[str, Any]]:
    connection = stack.mariadb.connect(stack.mariadb.database, cursorclass=pymysql.cursors.DictCursor)
    with connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def follow(stack: Stack, task_id: int, console: Console) -> dict[str, Any]:
    """Show the progress until the workflow has ended, and return it as it was then.

    Raises `StackError` if a part of the stack ends before, or the workflow does not end at all.
    """
    workflow_id = f"call-task-{task_id}"
    bars = Bars()
    deadline = time.monotonic() + _GIVE_UP_AFTER
    next_line = 0.0
    with Live(bars.render({}), console=console, refresh_per_second=8, transient=True) as live:
        while True:
            stack.check()
            try:
                is_open = stack.temporal.is_open(workflow_id)
                progress: dict[str, Any] = stack.temporal.query(workflow_id, "progress")
            except OSError:  # The worker has not taken the workflow up yet.
                is_open, progress = True, {}
            live.update(bars.render(progress))
            if not console.is_terminal and time.monotonic() > next_line:
                next_line = time.monotonic() + 3
                console.print(one_line(progress), soft_wrap=True)
            if not is_open:
                return progress
            if time.monotonic() > deadline:
                raise StackError(f"{workflow_id} did not end within {_GIVE_UP_AFTER:g} s: {progress}")
            time.sleep(0.25)


class Bars:
    """The live display: one bar a stage, and how the calls stand."""

    def __init__(self) -> None:
        self._progress = Progress(TextColumn("{task.description:<12}"), BarColumn(50), MofNCompleteColumn())
        self._bars = {
            field: self._progress.add_task(field.replace("_", " "), total=LEADS)
            for field in ("called", "finished", "recordings", "follow_ups")
        }

    def render(self, progress: dict[str, Any]) -> RenderableType:
        leads = progress.get("leads") or LEADS
        answered = progress.get("by_status", {}).get("Succeeded") or None
        for field, bar in self._bars.items():
            total = answered if field == "recordings" else leads
            self._progress.update(bar, completed=progress.get(field, 0), total=total)
        return Group(self._progress, Text(one_line(progress)))


def one_line(progress: dict[str, Any]) -> str:
    statuses = " ".join(f"{name} {count}" for name, count in sorted(progress.get("by_status", {}).items()))
    shown = ("called", "finished", "follow_ups", "analysed", "recordings", "polls", "api_calls")
    counts = "  ".join(f"{name.replace('_', ' ')} {progress[name]}" for name in shown if name in progress)
    return f"{progress.get('phase', 'starting')}  {counts}  {statuses}".rstrip()


def result_table(progress: dict[str, Any], task_type: int, account: dict[str, Any], elapsed: float) -> Table:
    table = Table(title="Result", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    interest = progress.get("by_interest", {})
    rows: list[tuple[str, object]] = [
        ("task type", task_type),
        ("phase", progress.get("phase", "")),
        ("leads accounted for", f"{account['follow_ups'] + account['never_called']} of {account['leads']}"),
        *((f"calls {status}", count) for status, count in sorted(progress.get("by_status", {}).items())),
        ("follow-ups", account["follow_ups"]),
        ("  judged by the model", progress.get("analysed", 0)),
        *((f"  {_INTEREST[value]}", interest.get(str(value), 0)) for value in (1, 2, 0)),
        ("recordings", progress.get("recordings", 0)),
        ("tokens in, out", f"{progress.get('input_tokens', 0)}, {progress.get('output_tokens', 0)}"),
        ("calls of the platform", progress.get("api_calls", 0)),
        ("took", f"{elapsed:.1f} s"),
    ]
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def follow_up_table(follow_ups: list[dict[str, Any]]) -> Table:
    table = Table(title="Ten of the follow-ups", show_lines=True, title_justify="left")
    for heading in ("lead", "call", "interest", "remark", "next time", "evidence"):
        table.add_column(heading, overflow="fold")
    for row in follow_ups:
        next_time = row["next_follow_time"]
        table.add_row(
            row["leads_name"],
            row["call_status"],
            _INTEREST.get(row["is_interested"], "?"),
            Text(row["leads_remark"] or ""),
            f"{next_time:%m-%d %H:%M}" if next_time else "",
            Text(row["evidence"]),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
