"""The house: imports point one way, and a backend installs one package with one name."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
ABOVE = {
    "calltasks": ("activities", "workflows", "worker", "starter", "simulators", "devstack", "tests", "benchmarks"),
    "activities": ("workflows", "worker", "starter", "simulators", "devstack", "tests", "benchmarks"),
    "workflows": ("worker", "starter", "simulators", "devstack", "tests", "benchmarks"),
}
TRIAL = {
    ("calltasks/cli/judgements.py", "activities.analyses"),
    ("calltasks/cli/judgements.py", "activities.follow_ups"),
}
"""A dry run judges with the activity's own class, which is loaded when it is asked for."""
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
    assert wrong - TRIAL == set()


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


def test_a_backend_with_modules_of_its_own_creates_a_task(wheel: Path, tmp_path: Path, database_url: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    backend = tmp_path / "backend"
    for name in ("settings.py", "api/__init__.py", "clients/__init__.py", "commands.py"):
        (backend / name).parent.mkdir(parents=True, exist_ok=True)
        (backend / name).write_text("OURS = True\n")
    (backend / "main.py").write_text(
        "import asyncio, json, sys\n"
        "import settings, api, clients, commands\n"
        "import calltasks\n"
        "from calltasks import CallTasks, UnknownLeadsError\n"
        "loaded = [n for n in sys.modules if n.startswith(('alibabacloud', 'dashscope'))]\n"
        "async def main():\n"
        "    async with CallTasks.connect(temporal=False) as calls:\n"
        "        await calls.init_db()\n"
        "        try:\n"
        "            await calls.create_task('org-7', 'sale', leads=[1])\n"
        "        except UnknownLeadsError as error:\n"
        "            return str(error)\n"
        "print(json.dumps([loaded, calltasks.__file__, asyncio.run(main())]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"DATABASE_URL": database_url, "PYTHONPATH": str(tmp_path / "installed")}
    said = subprocess.run(
        [sys.executable, "main.py"], cwd=backend, env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    loaded, where, answer = json.loads(said.stdout)
    assert (loaded, "unknown leads" in answer) == ([], True) and where.startswith(str(tmp_path))


def test_importing_the_package_costs_next_to_nothing() -> None:
    code = "import sys, calltasks; print('sqlalchemy' in sys.modules, 'temporalio' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]
