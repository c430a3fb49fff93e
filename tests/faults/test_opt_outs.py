"""Who said no is not called again: campaigns of one organisation that share people, while workers die and answers of
the platform are lost. What counts is the platform's own record of whom it dialled when."""

import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from calltasks.database.tables import opt_outs
from calltasks.database.tables.opt_outs import IMPORT, PERSON, Refusal
from calltasks.names import CANCELLED
from calltasks.options import Options
from calltasks.rules.phones import e164
from calltasks.wiring import Clients
from simulators import Fault, SimulatorOptions
from tests.faults.invariants import check
from tests.faults.saboteur import random_kills
from tests.faults.site import LONG, SEED, Nursery, observing, sabotaged, start, truth, until, verify
from tests.pipeline import Site, Sites, phone

MINE, OTHERS = "org7", "org8"
CAMPAIGNS = 5
REFUSES = "refuses-curtly"
FAULTS = (
    Fault(target="CancelJobs", kind="lost_answer", rate=0.4),
    Fault(target="CancelJobs", kind="reset", rate=0.1),
    Fault(target="AssignJobs", kind="lost_answer", rate=0.1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How big it is.

    Attributes:
        leads: of a campaign; each shares three quarters of its people with the next one.
        refusing: people who refuse further calls whenever they are called; ``told``: who tell it to a person instead.
        kills: of workers, each within so many steps (``most``).
        within: seconds after a refusal was written in which the last of its calls may begin.
    """

    leads: int
    refusing: int
    told: int
    kills: int
    most: int
    within: float
    world: SimulatorOptions
    options: Options


SMALL = Scale(
    leads=32,
    refusing=12,
    told=4,
    kills=5,
    most=400,
    within=15,
    world=SimulatorOptions(
        seed=SEED,
        time_scale=10,
        concurrency=3,
        seconds_per_call=30,
        answer_rate=0.3,
        retry_rate=0.1,
        retry_after=150,
        refusal_rate=0.0,
    ),
    options=Options(
        poll_first=0.5,
        poll_min=0.5,
        poll_max=2,
        match_grace=6,
        conversation_grace=3,
        retry_interval=0.3,
        recording_grace=3,
    ),
)
WHOLE = Scale(
    leads=2_000,
    refusing=300,
    told=60,
    kills=40,
    most=1_800,
    within=60,
    world=SimulatorOptions(
        seed=SEED,
        time_scale=10,
        concurrency=8,
        seconds_per_call=30,
        answer_rate=0.3,
        retry_rate=0.1,
        retry_after=300,
        refusal_rate=0.0,
        model_latency=(0.05, 0.5),
    ),
    options=Options(
        poll_first=1,
        poll_min=2,
        poll_max=10,
        match_grace=20,
        conversation_grace=20,
        retry_interval=3,
        recording_grace=20,
    ),
)


@pytest.mark.timeout(2400 if LONG else 600)
async def test_who_said_no_is_not_called_from_any_campaign_that_waits(
    sites: Sites, nursery: Nursery, tmp_path: Path
) -> None:
    """With FAULTS_LONG ten thousand leads, three hundred refusals and forty kills."""
    await prove(WHOLE if LONG else SMALL, sites, nursery, tmp_path)


async def prove(scale: Scale, sites: Sites, nursery: Nursery, directory: Path) -> None:
    """Run all campaigns to their end, and look at what the platform says."""
    site = await sites(scale.world)
    chance = random.Random(SEED)
    people = list(range(1, scale.leads + (CAMPAIGNS - 1) * scale.leads // 4 + 1))
    # Who is in several campaigns waits in one while another calls.
    refusing = chance.sample(people[scale.leads // 4 : -scale.leads // 4], scale.refusing + scale.told)
    calm, refusing = refusing[: scale.told], refusing[scale.told :]
    site.sim.world.set_course(REFUSES, [phone(person) for person in refusing])
    tasks = {}
    for number in range(CAMPAIGNS):
        window = people[number * scale.leads // 4 :][: scale.leads]
        tasks[await campaign(site, MINE, number, chance.sample(window, len(window)))] = scale.leads
    strangers = await campaign(site, OTHERS, CAMPAIGNS, chance.sample(refusing, min(len(refusing), scale.leads)))
    site.sim.set_faults(*FAULTS)
    acts = random_kills(SEED, scale.kills, most=scale.most)
    with observing(site, every=1.0 if scale is SMALL else 10.0) as observer:
        async with sabotaged(nursery, site, directory, *acts) as saboteurs:
            for task_id in (*tasks, strangers):
                await start(site, task_id, scale.options)
            await tell(site, calm, tasks)
            results = [await site.result(task_id, within=2000) for task_id in (*tasks, strangers)]
            await until(lambda: open_opt_outs(site) == 0, "every opt-out is carried out")
            struck = len(saboteurs.acts)
    site.sim.set_faults()
    assert site.sim.faults.counts["CancelJobs:lost_answer"] and site.sim.faults.counts["AssignJobs:lost_answer"]
    everyone = tasks | {strangers: min(len(refusing), scale.leads)}
    if scale is SMALL:
        await verify(site, everyone, observer, logs=[saboteurs.log])
    else:
        await check(
            database_url=site.environment["DATABASE_URL"],
            tasks=everyone,
            stats=site.stats(),
            truth=truth(site),
            observer=observer,
        )
    figures = Counter(kills=struck, refusals=len(refusing) + len(calm))
    await check_calls(site, scale, tasks, strangers, set(map(phone, refusing)), set(map(phone, calm)), figures)
    assert figures["withdrawn"] >= scale.refusing / 8, figures
    assert sum(result["withdrawn"] for result in results) == figures["withdrawn"], figures
    assert struck >= scale.kills / 2
    print(dict(figures))


async def campaign(site: Site, organization: str, number: int, people: list[int]) -> int:
    """A campaign that calls these people in this order."""
    first = 1 + number * 100_000
    leads = [
        {
            "leads_id": first + place,
            "organization_id": organization,
            "leads_user_name": f"测试客户{first + place:07}",
            "leads_user_phone": phone(person),
        }
        for place, person in enumerate(people)
    ]
    site.insert("dcc_leads", leads)
    return await site.create_task(range(first, first + len(people)), organization)


async def tell(site: Site, people: list[int], tasks: dict[int, int]) -> None:
    """People tell a salesperson, or are on a list that is imported, while the campaigns are dialled."""
    await until(lambda: len(site.follow_ups()) > len(people), "the first calls are over")
    site.enter_environment()
    async with Clients() as clients:
        for source, some in ((PERSON, people[::2]), (IMPORT, people[1::2])):
            refusals = [Refusal(phone=e164(phone(one)), source=source, evidence="asked for it") for one in some]
            now = (await clients.database.now()).replace(tzinfo=None)
            await clients.database.transaction(opt_outs.enter, MINE, refusals, now_utc=now)


def open_opt_outs(site: Site) -> int:
    found = site.sql("SELECT COUNT(*) AS n FROM call_opt_outs WHERE withdrawn_at IS NULL AND standing = 1")
    return int(found[0]["n"])


async def check_calls(
    site: Site,
    scale: Scale,
    tasks: dict[int, int],
    strangers: int,
    refusing: set[str],
    calm: set[str],
    figures: Counter[str],
) -> None:
    """By the platform's record: nobody is called so long after a refusal; nobody else is left out."""
    entries = site.sql("SELECT * FROM call_opt_outs ORDER BY id")
    said_no = {one["phone"]: one for one in entries if one["organization_id"] == MINE}
    figures["opt_outs"] = len(said_no)
    said = {job["job_id"]: job["sentence"] for job in site.sim.world.refusals()}
    assert set(said_no) == {e164(number) for number in refusing | calm}
    wrong: list[str] = []
    for task_id in tasks:
        for job in site.truth(task_id):
            one = said_no.get(e164(job["phone"]))
            if one is None:
                if job["status"] == CANCELLED:
                    wrong.append(f"job {job['job_id']} was withdrawn, and nobody had refused")
                continue
            written = milliseconds(one["created_at"])
            late = [(attempt["start"] - written) / 1000 for attempt in job["attempts"] if attempt["start"] > written]
            figures["dialled_after"] += bool(late)
            figures["withdrawn"] += job["status"] == CANCELLED and not late
            figures["longest_ms"] = max(figures["longest_ms"], *(round(seconds * 1000) for seconds in late), 0)
            wrong += [f"a call began {seconds:.1f} s after the refusal" for seconds in late if seconds > scale.within]
    for row in site.sql("SELECT * FROM leads_task_list WHERE call_status = %s", CANCELLED):
        one = said_no.get(e164(row["leads_phone"]))
        if row["task_id"] not in tasks or one is None:
            wrong.append(f"row {row['id']} of task {row['task_id']} was left out, and nobody had refused")
        elif one["source"] == "call" and said.get(one["call_job_id"]) != one["evidence"]:
            wrong.append(f"row {row['id']} was left out, and its sentence is nobody's: {one['evidence']!r}")
        else:
            figures["suppressed"] += not row["call_job_id"]
    own = site.sql("SELECT w.*, o.phone, o.organization_id FROM call_withdrawals w JOIN call_opt_outs o"
                   " ON o.id = w.opt_out_id")  # fmt: skip
    figures["too_late"] = sum(one["outcome"] == "too_late" for one in own)
    phones = {row["id"]: e164(row["leads_phone"]) for row in site.sql("SELECT id, leads_phone FROM leads_task_list")}
    wrong += [f"row {one['list_id']} names another's refusal" for one in own if phones[one["list_id"]] != one["phone"]]
    wrong += [f"row {one['list_id']} of {OTHERS} was withdrawn" for one in own if one["organization_id"] != MINE]
    wrong += [f"job {job['job_id']} of {OTHERS}" for job in site.truth(strangers) if job["status"] == CANCELLED]
    assert not wrong, f"{len(wrong)}: {wrong[:20]}, {dict(figures)}"


def milliseconds(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)
