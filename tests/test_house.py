"""The house: imports point one way, and a backend installs one package with one name."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from calltasks.model import errors as model_errors
from calltasks.platform import errors as platform_errors
from calltasks.platform import session

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
VENDORS_ROOMS = ("calltasks/platform/", "calltasks/model/")
IN_ITS_WORDS = {"calltasks/api/examples.py"}
"""Shows what the HTTP interface hands on as the platform spells it."""


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


def texts(path: Path) -> Iterator[str]:
    """String literals, but for those that only tell."""
    tree = ast.parse(path.read_text("utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    yield from (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
    )


def sources(*rooms: str) -> Iterator[Path]:
    return (path for room in rooms for path in (PROJECT / room).rglob("*.py"))


def vendors_words() -> set[str]:
    """Codes, actions and fields as the vendors spell them: what stands in their rooms and looks so."""
    fields = {
        field.alias
        for name, kind in vars(session).items()
        if isinstance(kind, type) and issubclass(kind, session.Body)
        for field in kind.model_fields.values()
    }
    codes = {code for codes in model_errors.CODES.values() for code in codes.split()} | {*platform_errors.REFUSALS}
    written = {text for room in VENDORS_ROOMS for path in sources(room) for text in texts(path)}
    names = {text for text in written if re.fullmatch("[A-Z][A-Za-z]+", text)}
    words = {str(word) for word in codes | names | fields | {*platform_errors.OF_THE_MOMENT}}
    # A single word, such as ``Failed``, may be anybody's; the services' names are everybody's, and so is ``TaskId``.
    everybodys = {platform_errors.SERVICE, model_errors.SERVICE, "TaskId"}
    return {word for word in words if re.search("[a-z.][A-Z]", word)} - everybodys


def test_vendors_words_stay_with_the_vendors() -> None:
    words = vendors_words()
    assert {"NotExist.Job", "InvalidParameter", "Throttling.User", "AssignJobs", "JobGroupId", "LatestTask"} <= words
    spoken = re.compile("|".join(rf"(?<![A-Za-z]){re.escape(word)}" for word in sorted(words, key=len, reverse=True)))
    found = {
        (str(path.relative_to(PROJECT)), said[0])
        for path in sources("calltasks", "activities", "workflows")
        if not (name := str(path.relative_to(PROJECT))).startswith(VENDORS_ROOMS) and name not in IN_ITS_WORDS
        for text in texts(path)
        if (said := spoken.search(text))
    }
    assert found == set()


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
