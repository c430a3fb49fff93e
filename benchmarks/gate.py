"""What the gate costs: handing a large task over, half of whose people said no, against one of which nobody did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from time import monotonic
from typing import Any

from benchmarks.figures import WARM_UP, Figure, Sizes, at_most
from benchmarks.site import PHONES, Bench
from calltasks.names import PROGRESS
from calltasks.platform.session import CONTACTS_A_CALL

ORGANIZATION = "gate"
LIMITS = {"not_called_within": 7, "at_most": 3, "in_days": 30}
LOOK_SECONDS = 0.1


async def gate(sizes: Sizes) -> list[Figure]:
    """Dispatch where nobody said no, where every second one did, or half of all in a row; and with limits, where
    everybody was called before. And a dry run of each."""
    leads = sizes.large
    async with Bench.open("--seconds-per-call", "3600", dialogues=False) as site:
        await site.worker()
        await _dispatch(site, range(WARM_UP))
        ran = {"nobody": await _dispatch(site, range(leads))}
        await _say_no(site, range(leads, 2 * leads, 2))
        ran["every second one"] = await _dispatch(site, range(leads, 2 * leads))
        await _say_no(site, range(2 * leads, 2 * leads + leads // 2))
        ran["half of all, in a row"] = await _dispatch(site, range(2 * leads, 3 * leads))
        ran["nobody, all called before"] = await _dispatch(site, range(leads), limited=True)
    nobody, *halves = list(ran.values())[:3]
    worst = max(half["seconds"] for half in halves)
    dry = max(one["dry_run_seconds"] for one in ran.values())
    return [
        at_most(
            f"handing {leads:,} leads over, half opted out, against none",
            worst / nobody["seconds"],
            1.1,
            "times",
            **ran,
        ),
        at_most("statements a batch, nobody opted out", nobody["statements"] / nobody["batches"], 6, "statements"),
        at_most("a dry run of them, by the command", dry, 15, "s"),
    ]


async def _dispatch(site: Bench, people: range, *, limited: bool = False) -> dict[str, Any]:
    """Hand a new task of these people over."""
    task_id = await asyncio.to_thread(_make, site, people)
    options = LIMITS if limited else {}
    began = monotonic()
    given = ("--dry-run", "--options", json.dumps(options))
    said = await asyncio.to_thread(site.stack.starter, "start-call", task_id, *given)
    dry_run_seconds = monotonic() - began
    with site.questions() as asked:
        began = monotonic()
        handle = await site.start(task_id, options)
        # The database is not asked how far it is: its statements are counted.
        while (await handle.query(PROGRESS))["phase"] == "dispatching":  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        seconds = monotonic() - began
    history = await handle.fetch_history()
    if not limited:
        await handle.terminate()
    left_out = site.value("SELECT COUNT(*) FROM call_suppressions WHERE task_id = %s", task_id)
    assert said["not_called"] == left_out and said["to_call"] == len(people) - left_out, said["by_reason"]
    steps = [event.activity_task_scheduled_event_attributes.activity_type.name for event in history.events]
    return {
        "called": len(people) - left_out,
        "seconds": round(seconds, 2),
        "batches": -(-len(people) // CONTACTS_A_CALL),
        "statements": asked[0],
        "steps": steps.count("assign_contacts"),
        "events": len(history.events),
        "dry_run_seconds": round(dry_run_seconds, 2),
    }


def _make(site: Bench, people: range) -> int:
    with site.stack.mariadb.connect(site.stack.mariadb.database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO call_tasks (task_name, organization_id, task_type, job_group_id, create_time)"
            " VALUES ('benchmark', %s, 1, '', UTC_TIMESTAMP())",
            (ORGANIZATION,),
        )
        task_id = int(cursor.lastrowid)
        for start in range(0, len(people), 5000):
            cursor.executemany(
                "INSERT INTO leads_task_list (task_id, leads_id, leads_name, leads_phone, call_time, call_job_id,"
                " reference_id) VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(), '', %s)",
                [
                    (task_id, lead + 1, "客户", str(PHONES + lead), f"{task_id}{ORGANIZATION}{lead + 1}")
                    for lead in people[start : start + 5000]
                ],
            )
    return task_id


async def _say_no(site: Bench, people: Iterable[int]) -> None:
    numbers = [(ORGANIZATION, f"+86{PHONES + lead}") for lead in people]

    def insert() -> None:
        with site.stack.mariadb.connect(site.stack.mariadb.database) as connection, connection.cursor() as cursor:
            for start in range(0, len(numbers), 5000):
                cursor.executemany(
                    "INSERT INTO call_opt_outs (organization_id, phone, source, evidence, created_at)"
                    " VALUES (%s, %s, 'import', '', UTC_TIMESTAMP(6))",
                    numbers[start : start + 5000],
                )

    await asyncio.to_thread(insert)
