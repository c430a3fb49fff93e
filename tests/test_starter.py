"""What people and backends type and call: results, exit codes, and one clear line for whatever is wrong."""

import asyncio
import json
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from calltasks.call_tasks import CallTasks
from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import Child, free_port
from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Site, Sites, eventually, phone
from tests.programs import Program, own_environment

COMMANDS = (
    *("init-db", "create-task", "start-call", "progress", "force-analyze", "query-task-execution"),
    *("refresh", "pause", "resume", "cancel", "monitor"),
)
PROJECT = Path(__file__).resolve().parent.parent


# The command line


async def test_a_task_from_creation_to_its_end_by_commands_alone(sites: Sites, tmp_path: Path) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(12)
    environment = {**own_environment(), **site.environment}
    numbers = count()

    async def starter(*arguments: str | int, code: int = 0) -> Any:
        log = tmp_path / f"starter-{next(numbers)}"
        program = Program(environment, log, "starter.py", *map(str, arguments), "--json")
        ended, out, error = await program.ended()
        assert ended == code, error
        return json.loads(out) if out else error

    assert await starter("init-db") == {"created": []}
    one = (await starter("create-task", "--organization", "org7", "--name", "春季", "--leads", "1,2,3"))["task_id"]
    task_id = (await starter("create-task", "--organization", "org7", "--name", "all", "--all-leads"))["task_id"]
    assert [len(site.rows(id_)) for id_ in (one, task_id)] == [3, 12]
    assert "no job ids yet" in await starter("query-task-execution", task_id, code=1)
    assert "start-call" in await starter("progress", task_id, code=1)
    async with site.working():
        result = await starter("start-call", task_id, "--wait", "--options", QUICK.model_dump_json())
        assert result["started"]
        assert (result["outcome"], result["task_type"], result["called"]) == ("complete", 4, 12)
        assert_finished(site, task_id, result)
        progress = await starter("progress", task_id)
        assert {name: progress[name] for name in ("called", "task_type")} == {"called": 12, "task_type": 4}
        page = await starter("query-task-execution", task_id, "--page", 2, "--page-size", 5)
        assert (len(page["jobs_data"]), page["total"], page["page"], page["page_size"]) == (5, 12, 2, 5)
        site.sim.set_faults(Fault(target="model", kind="fickle"))
        job_id = site.rows(task_id)[0]["call_job_id"]
        again = await starter("force-analyze", task_id, "--call-job-id", job_id, "--wait")
        assert again["reanalysed"] == 1
        said = await starter("start-call", one, "--dry-run", "--not-called-within", 7, "--at-most", 2, "--in", 30)
        assert (said["to_call"], said["left_out"]) == (0, {"called_lately": ["1", "2", "3"]})
        assert "go together" in await starter("start-call", one, "--at-most", 2, code=2)
        assert "go together" in await starter("start-call", one, "--options", '{"in_days": 7}', code=2)
        given = ("--not-called-within", 7, "--options", QUICK.model_dump_json(exclude_none=True))
        result = await starter("start-call", one, "--wait", *given)
        assert (result["outcome"], result["suppressed_by_reason"]) == ("nothing_called", {"called_lately": 3})
    await starter("pause", task_id, code=1)
    assert await starter("monitor", "status") == {"action": "status", "is_running": False}


async def test_wrong_use_is_one_line_and_exit_code_2_and_what_is_unknown_is_1(sites: Sites, tmp_path: Path) -> None:
    site = await sites()
    site.add_leads(2)
    task_id = await site.create_task()
    cases: dict[int, list[list[str]]] = {
        2: [
            ["create-task", "--organization", "org7", "--name", "x"],
            ["create-task", "--organization", "org7", "--name", "x", "--leads", "1", "--all-leads"],
            ["create-task", "--organization", "org7", "--name", "x", "--leads", "1,two"],
            ["start-call", "one"],
            ["start-call", "0"],
            ["start-call", str(task_id), "--options", '{"poll_min": -1}'],
            ["start-call", str(task_id), "--options", "not json"],
            ["force-analyze", str(task_id)],
            ["force-analyze", str(task_id), "--all", "--failed"],
            ["query-task-execution", str(task_id), "--page", "0"],
            ["no-such-command"],
        ],
        1: [
            ["create-task", "--organization", "org7", "--name", "x", "--leads", "1,99"],
            ["create-task", "--organization", "nobody", "--name", "x", "--all-leads"],
            ["start-call", "999"],
            ["progress", "999"],
            ["force-analyze", "999", "--all"],
            ["force-analyze", str(task_id), "--all"],
            ["query-task-execution", "999"],
            ["refresh", "999"],
        ],
    }
    environment = {**own_environment(), **site.environment}
    programs = [(code, arguments) for code, several in cases.items() for arguments in several]
    ended = await asyncio.gather(
        *(
            Program(environment, tmp_path / str(number), "starter.py", *arguments).ended()
            for number, (_, arguments) in enumerate(programs)
        )
    )
    for (code, arguments), (found, out, error) in zip(programs, ended, strict=True):
        assert (found, out) == (code, ""), (arguments, found, out, error)
        assert error.strip() and "Traceback" not in error, (arguments, error)
        if code == 1:
            assert len(error.strip().splitlines()) == 1, (arguments, error)
    assert site.sql("SELECT COUNT(*) AS n FROM call_tasks")[0]["n"] == 1


def test_the_programs_run_as_they_are_typed() -> None:
    for program in ("starter.py", "worker.py"):
        done = subprocess.run(
            [sys.executable, program, "--help"], cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "--help" in done.stdout
        if program == "starter.py":
            assert [command for command in COMMANDS if command not in done.stdout] == []


# What is wrong around them


async def test_what_is_wrong_at_the_start_is_one_line_with_the_right_exit_code(
    sites: Sites, mariadb: EmbeddedMariaDB, tmp_path: Path
) -> None:
    site = await sites()
    good = {**own_environment(), **site.environment}
    url = good["DATABASE_URL"]
    password = url.split(":")[2].split("@")[0]
    nowhere = f"127.0.0.1:{free_port()}"
    cases: dict[str, tuple[int, str, dict[str, str], tuple[str, ...]]] = {
        "no database url": (2, "DATABASE_URL", {}, ("DATABASE_URL",)),
        "not mysql": (2, "DATABASE_URL", {"DATABASE_URL": f"postgresql://u:{password}@h/d"}, ()),
        "no account": (2, "OUTBOUND_BOT_INSTANCE_ID", {}, ("OUTBOUND_BOT_INSTANCE_ID", "DASHSCOPE_API_KEY")),
        "zone": (2, "TIME_ZONE", {"TIME_ZONE": "Asia/Nowhere"}, ()),
        "limit": (2, "OUTBOUND_BOT_QPS", {"OUTBOUND_BOT_QPS": "fast"}, ()),
        "no server": (1, "DATABASE_URL", {"DATABASE_URL": url.replace(f"127.0.0.1:{mariadb.port}", nowhere)}, ()),
        "wrong password": (2, "DATABASE_URL", {"DATABASE_URL": url.replace(password, f"{password}x")}, ()),
        "no such database": (2, "DATABASE_URL", {"DATABASE_URL": f"{url}_absent"}, ()),
        "no temporal": (1, "TEMPORAL_ADDRESS", {"TEMPORAL_ADDRESS": nowhere}, ()),
        "nothing set at all": (2, "DATABASE_URL", {"TEMPORAL_ADDRESS": nowhere}, ("DATABASE_URL", "DASHSCOPE_API_KEY")),
    }
    ended = await asyncio.gather(
        *(
            Program(
                {name: value for name, value in (good | changes).items() if name not in without},
                tmp_path / case,
                "worker.py",
            ).ended()
            for case, (_, _, changes, without) in cases.items()
        )
    )
    for (case, (code, word, _, _)), (found, out, error) in zip(cases.items(), ended, strict=True):
        lines = [line for line in error.splitlines() if line.startswith("worker:")]
        assert found == code and out == "" and len(lines) == 1, (case, found, error)
        assert word in lines[0] and "Traceback" not in error, (case, error)
        assert password not in error and "simulator-key" not in error, case


async def test_an_old_or_wrong_schema_is_said_in_one_line(
    sites: Sites, mariadb: EmbeddedMariaDB, tmp_path: Path
) -> None:
    breaks = {
        "planed_time": "ALTER TABLE leads_task_list DROP COLUMN planed_time",
        "dcc_leads_follow": "ALTER TABLE dcc_leads_follow ENGINE = MyISAM",
        "init-db": "DROP TABLE call_follow_ups",
        "call_tasks": "DROP TABLE call_tasks",
    }
    programs = {}
    for word, statement in breaks.items():
        site = await sites()
        site.sql(statement)
        programs[word] = Program({**own_environment(), **site.environment}, tmp_path / word, "worker.py")
    site = await sites()
    with mariadb.connect(root=True) as connection, connection.cursor() as cursor:
        cursor.execute("DROP USER IF EXISTS 'reader'@'127.0.0.1'")
        cursor.execute("CREATE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'hidden-word'")
        cursor.execute("GRANT SELECT ON `callcrm%`.* TO 'reader'@'127.0.0.1'")
    _, rest = site.environment["DATABASE_URL"].split("@")
    reader = {**own_environment(), **site.environment, "DATABASE_URL": f"mysql+pymysql://reader:hidden-word@{rest}"}
    programs["may not write"] = Program(reader, tmp_path / "reader", "worker.py")
    ended = await asyncio.gather(*(program.ended() for program in programs.values()))
    for word, (code, out, error) in zip(programs, ended, strict=True):
        lines = [line for line in error.splitlines() if line.startswith("worker:")]
        assert code == 2 and out == "" and len(lines) == 1, (word, code, error)
        assert word in lines[0] and "Traceback" not in error and "hidden-word" not in error, (word, error)
    with mariadb.connect(root=True) as connection, connection.cursor() as cursor:
        cursor.execute("DROP USER 'reader'@'127.0.0.1'")


async def test_a_worker_of_one_queue_needs_only_its_settings_and_stops_in_good_order(
    sites: Sites, tmp_path: Path
) -> None:
    site = await sites()
    without = [name for name in site.environment if name.startswith(("ALIBABA", "OUTBOUND", "DASHSCOPE", "ANALYSIS"))]
    environment = {**own_environment(*without), **{n: v for n, v in site.environment.items() if n not in without}}
    child = Child(
        "worker",
        [sys.executable, "worker.py", "--queue", "call-tasks"],
        log=tmp_path / "worker.log",
        environment=environment,
        directory=PROJECT,
        ready_line="worker ready",
        timeout=300,
    )
    try:
        await asyncio.to_thread(child.start)
        child.signal(signal.SIGTERM)

        async def ended() -> bool:
            return not child.alive

        await eventually(ended)
        assert child.exit_code == 0, child.output()
    finally:
        child.kill()
    code, _, error = await Program(environment, tmp_path / "queue", "worker.py", "--queue", "coffee").ended()
    assert (code, len(error.splitlines())) == (2, 1) and "coffee" in error


# Through Temporal

GARBAGE: list[Any] = [
    "42", 42, None, [], [{"task_id": 1}], {}, {"task_id": "7"}, {"task_id": 0}, {"task_id": -3}, {"task_id": 1.5},
    {"task_id": True}, {"task_id": None}, {"task_id": 2**80}, {"task_id": 7, "extra": 1},
    {"task_id": 7, "options": {"poll_min": 0}}, {"task_id": 7, "options": {"no_such": 1}}, {"task_id": 7, "options": 5},
    {"task_id": 7, "carried": {"x": 1}}, {"task_id": 2**40},
]  # fmt: skip


async def test_garbage_fails_the_workflow_with_one_clear_line(sites: Sites) -> None:
    site = await sites()

    async def line(*given: Any, number: int) -> str:
        handle: Any = await site.client.start_workflow(
            "CallTaskWorkflow", args=list(given), id=f"garbage-{number}", task_queue="call-tasks"
        )
        with pytest.raises(WorkflowFailureError) as failure:
            async with asyncio.timeout(150):
                await handle.result()
        return str(failure.value.cause)

    async with site.working():
        lines = await asyncio.gather(
            *(line(given, number=number) for number, given in enumerate(GARBAGE)), line(number=100)
        )
        for given, said in zip([*GARBAGE, "nothing at all"], lines, strict=True):
            assert "\n" not in said and len(said) < 300, (given, said)
            assert "task" in said, (given, said)
    assert "call task 1099511627776 does not exist" in lines[len(GARBAGE) - 1]


# The library


async def test_a_thousand_leads_are_created_by_a_handful_of_statements(sites: Sites) -> None:
    site = await sites()
    site.add_leads(1000)
    site.add_leads(5, first=5000, organization="other")
    before = site.questions()
    task_id = await site.create_task()
    assert site.questions() - before < 30  # connecting and preparing included
    rows = site.rows(task_id)
    assert len(rows) == 1000 and site.task(task_id)["task_type"] == 1
    for row in rows[::100]:
        assert row["reference_id"] == f"{task_id}org7{row['leads_id']}"
        assert (row["leads_phone"], row["leads_name"]) == (phone(row["leads_id"]), f"测试客户{row['leads_id']:05}")
        assert row["call_job_id"] == "" and row["call_time"] is not None and row["call_status"] is None
    with pytest.raises(Exception, match="5000"):
        await site.create_task([1, 5000])
    assert site.sql("SELECT COUNT(*) AS n FROM call_tasks")[0]["n"] == 1


async def test_query_execution_asks_saves_and_counts(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    contacts = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 31)]
    task_id = site.old_task([], contacts)
    for n, job in enumerate(site.truth(task_id), 1):
        row = {"task_id": task_id, "leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"}
        site.insert("leads_task_list", [{**row, "call_job_id": job["job_id"]}])

    async def query(calls: CallTasks, **options: Any) -> Any:
        return await calls.query_task_execution(task_id, **options)

    async with site.calls() as calls:
        looked = await query(calls, apply_update=False)
        assert (len(looked.jobs_data), looked.updated_count, looked.total) == (20, 0, 30)
        assert {row["call_status"] for row in site.rows(task_id)} == {None}
        saved = await query(calls)
        assert (saved.updated_count, saved.page, saved.page_size) == (20, 1, 20)
        assert [bool(row["call_status"]) for row in site.rows(task_id)] == [True] * 20 + [False] * 10
        assert {row["recording_url"] for row in site.rows(task_id)} == {None}
        assert (await query(calls)).updated_count == 0
        recorded = await query(calls, skip_recording=False, page_size=25)
        assert recorded.updated_count == 25
        assert sum(bool(row["recording_url"]) for row in site.rows(task_id)) == 25
        site.sim.set_faults(Fault(target="ListJobs", kind="flip"))
        await query(calls)
        await query(calls)
        assert {row["call_status"] for row in site.rows(task_id)[:20]} == {"Succeeded"}
        site.sim.set_faults()
        last = await query(calls, page=4, page_size=10)
        assert (last.jobs_data, last.updated_count, last.total) == ([], 0, 30)
    assert site.follow_ups() == {}


async def test_the_monitor_takes_up_what_nothing_is_working_on(sites: Sites) -> None:
    site = await sites()
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in range(1, 6)]
    contacts = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 6)]
    open_tasks = [site.old_task(rows, contacts, task_type=kind) for kind in (2, 3)]
    closed = [site.old_task(rows, contacts, task_type=kind) for kind in (1, 4)]
    async with site.working(), site.calls() as calls:
        assert not (await calls.monitor("status")).is_running
        assert not (await calls.monitor("check")).is_running
        for task_id in open_tasks:
            assert (await wait_for_run(site, task_id))["outcome"] == "complete"
        said = [(await calls.monitor(action)).is_running for action in ("start", "start", "status", "stop", "status")]
        assert said == [True, True, True, False, False]
    assert [site.task(task_id)["task_type"] for task_id in open_tasks] == [4, 4]
    started = {run.id for run in await site.runs()}
    assert not started & {f"call-task-{task_id}" for task_id in closed}


async def wait_for_run(site: Site, task_id: int) -> dict[str, Any]:
    """The result of a run that somebody else starts."""

    async def started() -> bool:
        return bool(await site.runs(f"WorkflowId = 'call-task-{task_id}'"))

    await eventually(started)
    return await site.result(task_id)
