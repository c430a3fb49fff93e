"""The house: imports point one way, and a backend installs one package with one name."""

import ast
import asyncio
import json
import subprocess
import sys
import zipfile
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from calltasks import names
from simulators import SimulatorOptions
from tests.comparison import assert_finished
from tests.conftest import NOT_ABOUT_THE_DATABASE
from tests.pipeline import ORGANIZATION, Sites
from tests.programs import own_environment
from workflows.call_task import CallTaskWorkflow

PROJECT = Path(__file__).resolve().parent.parent
ABOVE = {
    "calltasks": ("activities", "workflows", "worker", "starter", "simulators", "devstack", "tests", "benchmarks"),
    "activities": ("workflows", "worker", "starter", "simulators", "devstack", "tests", "benchmarks"),
    "workflows": ("worker", "starter", "simulators", "devstack", "tests", "benchmarks"),
}
VENDORS = ("alibabacloud", "dashscope", "darabonba")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ABOVE)
def test_imports_point_one_way(room: str) -> None:
    wrong = {
        (str(path.relative_to(PROJECT)), name)
        for path in (PROJECT / room).rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] in ABOVE[room]
    }
    assert wrong == set()


PRODUCT = [
    *(path for room in ABOVE for path in sorted((PROJECT / room).rglob("*.py"))),
    *(PROJECT / name for name in ("worker.py", "starter.py")),
]
NAMED = [names.WORKFLOW, names.MONITOR_WORKFLOW, names.MONITOR_SCHEDULE, names.MONITOR_CHECK, *names.QUEUES]
NAMED += [names.WITHDRAW_WORKFLOW, names.WITHDRAWALS]
NAMED += [names.PROGRESS, names.START_CALL, names.FORCE_ANALYZE, names.REFRESH, names.CONTROL_CALLS, *names.ACTIONS]
NAMED += [*names.FINAL, *(key.name for key in names.SEARCH_ATTRIBUTES)]
OTHERS_WORDS = {
    names.ANALYSIS: (
        *("activities/follow_ups.py", "activities/portions.py"),
        *("calltasks/database/tables/needs.py", "calltasks/database/tables/tasks.py"),
    ),
    **dict.fromkeys(names.FINAL, ("calltasks/platform/session.py",)),
    names.TASK.name: ("calltasks/platform/session.py", "calltasks/api/examples.py"),
}
"""What is spelled alike and is not ours: a step of ``call_retries``, and what the platform says."""


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_said_once(name: str) -> None:
    said = [where for where, text in texts() if text == name or f"'{name}'" in text]
    assert [where for where in said if where not in OTHERS_WORDS.get(name, ())] == ["calltasks/names.py"]


@cache
def texts() -> list[tuple[str, str]]:
    """Every text in the product's code, and its file."""
    return [
        (str(path.relative_to(PROJECT)), node.value)
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_a_run_listens_to_what_it_is_called() -> None:
    asked = (names.PROGRESS, names.START_CALL, names.FORCE_ANALYZE, names.REFRESH, names.CONTROL_CALLS)
    assert [name for name in asked if not hasattr(CallTaskWorkflow, name)] == []


def test_the_names_are_loaded_in_the_sandbox_of_workflows() -> None:
    allowed = {"__future__", "enum", "temporalio.common"}
    assert set(imports(PROJECT / "calltasks/names.py")) == allowed


def test_clients_are_wired_in_one_place() -> None:
    made = {
        (str(path.relative_to(PROJECT)), node.func.id)
        for path in [*PRODUCT, *(PROJECT / "benchmarks").glob("*.py"), *(PROJECT / "devstack").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("Database", "OutboundBot", "AnalysisModel", "Archive", "shared")
    }
    assert {where for where, _ in made} == {"calltasks/wiring.py"} and len(made) == 5


def test_wiring_loads_no_vendor_before_it_is_asked() -> None:
    code = "import sys, calltasks.wiring; print([n for n in sys.modules if n.startswith(" + repr(VENDORS) + ")])"
    said = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_workflows_load_no_vendor() -> None:
    code = "import sys, workflows.call_task; print([n for n in sys.modules if n.startswith(" + repr(VENDORS) + ")])"
    said = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    names = ["calltasks", "pyproject.toml", "requirements.in", "README.md", "LICENSE"]
    source.mkdir()
    for name in names:
        subprocess.run(["cp", "-r", str(PROJECT / name), str(source / name)], check=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"),
            *("--wheel-dir", str(directory), str(source)),
        ],
        check=True,
    )
    return next(directory.glob("calltasks-*.whl"))


def test_a_wheel_brings_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        names = set(archive.namelist())
    assert {top for top in tops if not top.endswith(".dist-info")} == {"calltasks"}
    assert {"calltasks/py.typed", "calltasks/database/sql/own.sql", "calltasks/rules/prompts/judgement.zh.md"} <= names


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    subprocess.run([*pip, "--target", str(directory), str(wheel)], check=True)
    return directory


def test_an_installation_brings_one_name(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} <= {"calltasks", "bin"}


async def test_a_backend_with_modules_of_its_own_starts_a_call_task(
    installed: Path, tmp_path: Path, sites: Sites
) -> None:
    backend = tmp_path / "backend"
    for name in ("settings.py", "api/__init__.py", "clients/__init__.py", "commands.py"):
        (backend / name).parent.mkdir(parents=True, exist_ok=True)
        (backend / name).write_text("OURS = True\n")
    (backend / "main.py").write_text(
        "import asyncio, json, sys\n"
        "import settings, api, clients, commands\n"
        "import calltasks\n"
        "from calltasks import CallTasks, UnknownLeadsError\n"
        "from calltasks.options import Options\n"
        "loaded = [n for n in sys.modules if n.startswith(('alibabacloud', 'dashscope'))]\n"
        "async def main():\n"
        "    async with CallTasks.connect() as calls:\n"
        "        try:\n"
        "            await calls.create_task('org-7', 'sale', leads=[99])\n"
        "        except UnknownLeadsError:\n"
        f"            task_id = await calls.create_task({ORGANIZATION!r}, 'sale', leads=[1, 2, 3])\n"
        "        return task_id, await calls.start_call(task_id, Options(poll_first=0.1))\n"
        "print(json.dumps([loaded, calltasks.__file__, *asyncio.run(main())]))\n"
    )
    site = await sites(SimulatorOptions(calls_over=True))
    site.add_leads(3)
    environment = own_environment(**site.environment, PYTHONPATH=str(installed))
    async with site.working():
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "main.py"), cwd=backend, env=environment, stdout=PIPE, stderr=PIPE
        )
        said, complaint = await program.communicate()
        assert program.returncode == 0, complaint.decode()
        loaded, where, task_id, started = json.loads(said)
        assert (loaded, started) == ([], True) and where.startswith(str(installed))
        assert_finished(site, task_id, await site.result(task_id))


def test_importing_the_package_costs_next_to_nothing() -> None:
    code = "import sys, calltasks; print('sqlalchemy' in sys.modules, 'temporalio' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]


LONGEST_FILE, LONGEST_FUNCTION = 400, 50
ROOMS = ("workflows", "activities", "calltasks", "simulators", "devstack", "benchmarks")
DATA = {"simulators/dialogues.py"}
"""Invented conversations, no code."""


def test_files_and_functions_are_short() -> None:
    files = [
        PROJECT / "worker.py",
        PROJECT / "starter.py",
        *(p for room in ROOMS for p in (PROJECT / room).rglob("*.py")),
    ]
    too_long = []
    for path in files:
        name, text = str(path.relative_to(PROJECT)), path.read_text("utf-8")
        if name not in DATA and len(text.splitlines()) > LONGEST_FILE:
            too_long.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docs = len((ast.get_docstring(node) or "").splitlines())
                if (node.end_lineno or 0) - node.lineno + 1 - docs > LONGEST_FUNCTION:
                    too_long.append(f"{name}: {node.name}")
    assert not too_long


def test_what_is_left_out_on_mysql_is_there() -> None:
    assert {path.name for path in (PROJECT / "tests").glob("test_*.py")} >= NOT_ABOUT_THE_DATABASE
