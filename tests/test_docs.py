"""What the documents say is true: settings, links, commands; and nothing here names a machine or a registry."""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from calltasks import Options, settings
from calltasks.cli.commands import app
from calltasks.cli.events import events
from calltasks.cli.recordings import recordings
from devstack.temporal import SEARCH_ATTRIBUTES

PROJECT = Path(__file__).resolve().parent.parent
READMES = (PROJECT / "README.md", PROJECT / "README.zh-CN.md")
OPERATIONS = PROJECT / "docs/operations.md"
RULES, VENDORS = PROJECT / "docs/rules.md", PROJECT / "docs/vendors.md"
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
TEMPORAL = re.compile(r"TEMPORAL_[A-Z_]+")
ROW = re.compile(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| (.*?) \| ", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


documents = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
readmes = pytest.mark.parametrize("readme", READMES, ids=name_of)


# --- settings -------------------------------------------------------------------------------------------------------


def read_by_settings() -> dict[str, FieldInfo]:
    """Every variable that the program reads."""
    modules = [settings]
    found: dict[str, FieldInfo] = {}
    for group in [value for module in modules for value in vars(module).values()]:
        if isinstance(group, type) and issubclass(group, settings._Group):
            for name, info in group.model_fields.items():
                # What one group requires another may do without.
                if name.upper() not in found or info.is_required():
                    found[name.upper()] = info
    return found


def told_by(readme: Path) -> dict[str, str]:
    """The settings table: variable and what its second column says."""
    table = {}
    for names, default in ROW.findall(readme.read_text("utf-8")):
        table.update(dict.fromkeys(re.findall(r"`([A-Z_]+)`", names), default))
    return table


@readmes
def test_every_setting_is_in_the_table_and_nothing_else(readme: Path) -> None:
    told = {name for name in told_by(readme) if not TEMPORAL.fullmatch(name)}
    assert told == set(read_by_settings())


@readmes
def test_the_defaults_in_the_table_are_those_of_the_program(readme: Path) -> None:
    for name, info in read_by_settings().items():
        told = told_by(readme)[name]
        default = info.default.get_secret_value() if isinstance(info.default, SecretStr) else info.default
        if info.is_required():
            expected = {"required", "必填"}
        elif default is None or default == "":
            expected = {"none", "无"}
        else:
            expected = {f"`{default:g}`" if isinstance(default, float) else f"`{default}`"}
        assert told in expected, name


@readmes
def test_the_temporal_variables_of_the_table_are_read_by_the_sdk(readme: Path) -> None:
    import temporalio.bridge

    program = next(Path(temporalio.bridge.__file__).parent.glob("temporal_sdk_bridge*"), None)
    assert program is not None
    known = program.read_bytes()
    told = [name for name in told_by(readme) if TEMPORAL.fullmatch(name)]
    assert len(told) > 5
    assert [name for name in told if name.encode() not in known] == []


# --- links and pictures ---------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """The anchors that a forge makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", outside_code(document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def outside_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@documents
def test_every_relative_link_and_picture_is_there(document: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(document.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


# --- what the program says --------------------------------------------------------------------------------------------

QUOTES = re.compile(r"^\| it says \| do \|\n\| --- \| --- \|\n((?:\|.*\n)+)", re.MULTILINE)
VALUE = re.compile(r"…|;|: |\(?[A-Z]+_[A-Z_]*\)?|\b[0-9]+\b")
"""What stands for a value in a message, or parts it."""
OTHERS = {"Input should be", "connect to"}
"""Words of pydantic, and an operation that is put in."""


def quoted() -> list[str]:
    """The messages that the runbook says what to do about."""
    rows = [row for table in QUOTES.findall(OPERATIONS.read_text("utf-8")) for row in table.splitlines()]
    return [match[1] for row in rows if (match := re.match(r"\| `([^`]+)` \|", row))]


@cache
def said() -> str:
    """Every text in the program's source, values left out."""
    texts = []
    for path in sorted(PROJECT.rglob("*.py")):
        if path.relative_to(PROJECT).parts[0] not in ("tests", "simulators", "benchmarks", ".venv"):
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
            texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(texts)


def test_the_runbook_quotes_messages() -> None:
    assert len(quoted()) > 15


@pytest.mark.parametrize("message", quoted())
def test_a_message_that_the_runbook_quotes_is_one_that_the_program_says(message: str) -> None:
    parts = {part.strip() for part in VALUE.split(message.replace("Temporal connect", "connect"))} - OTHERS
    longest = max(parts, key=lambda part: len(part.split()))
    wanted = {longest, *(part for part in parts if len(part.split()) > 2)}
    assert [part for part in wanted if part not in said()] == []


def test_pictures_are_small_and_each_is_shown() -> None:
    shown = "".join(document.read_text("utf-8") for document in DOCUMENTS)
    for picture in (PROJECT / "docs/images").iterdir():
        assert picture.stat().st_size < 300_000, picture.name
        assert f"images/{picture.name}" in shown, picture.name


# --- commands -------------------------------------------------------------------------------------------------------


@cache
def commands() -> dict[str, Any]:
    """Every command of starter.py, as it is typed."""
    group = typer.main.get_command(app)
    # Only `commands.main` hangs these in.
    late = {"events": events, "recordings": recordings}
    found: dict[str, Any] = {name: typer.main.get_command(group) for name, group in late.items()}

    def add(command: Any, prefix: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            found[f"{prefix}{name}"] = child
            add(child, f"{prefix}{name} ")

    add(group, "")
    for name in late:
        add(found[name], f"{name} ")
    return found


def typed(text: str) -> Iterator[str]:
    """What stands behind starter.py, to the end of the line, the code span or the sentence."""
    yield from re.findall(r"starter\.py (?! )([^`\n|#;)]+)", text)


@documents
def test_every_command_in_the_documents_exists_with_its_options(document: Path) -> None:
    for line in typed(document.read_text("utf-8")):
        words = line.split()
        if words[0] in ("…", "says") or words[0].isupper() or words[0].startswith("--"):
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in commands() else words[0]
        assert name in commands(), line
        known = {option for parameter in commands()[name].params for option in parameter.opts} | {"--help"}
        assert {word.strip("[],.，。") for word in words if word.startswith("--")} <= known, line


@readmes
def test_every_command_is_told_in_the_readme(readme: Path) -> None:
    text = readme.read_text("utf-8")
    leaves = [name for name, command in commands().items() if not hasattr(command, "commands")]
    assert [name for name in leaves if f"`{name}" not in text] == []


@documents
def test_every_make_target_in_the_documents_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^)(?:[A-Z]+=\S+ )?make ([a-z-]+)", document.read_text("utf-8"), re.MULTILINE)
    assert set(named) <= targets


@readmes
def test_every_requirement_has_its_reason_in_the_readme(readme: Path) -> None:
    text = readme.read_text("utf-8")
    lines = (PROJECT / "requirements.in").read_text().splitlines()
    wanted = {re.split(r"[=<>\[;@ ]", line)[0] for line in lines if line and not line.startswith("#")}
    told = {
        name for row in re.findall(r"^\| (`[a-z].*?) \|", text, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    }
    assert wanted <= told


# --- what must not be in the project --------------------------------------------------------------------------------


@cache
def tracked() -> list[Path]:
    """Text files of the project, as git knows them; without git, those that stand around."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    return [PROJECT / name for name in names if name and (PROJECT / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8000]:
            yield str(path.relative_to(PROJECT)), data.decode("utf-8", "replace")


# Written in pieces, so that this file does not find itself.
_HOME = re.compile("/(?:" + "home|Users|work" + r")/\w+|/" + "root/")
_INDEX = re.compile(
    "(?:extra-)?index" + r"-url\s*[=:]|--find" + r"-links\s+\S*://|" + "files.python" + r"hosted|//py" + "pi\\.",
    re.IGNORECASE,
)


def test_no_file_names_a_directory_of_somebodys_machine() -> None:
    if not tracked():
        pytest.skip("no git here")
    assert [(name, found[0]) for name, text in texts() if (found := _HOME.search(text))] == []


def test_no_file_names_a_package_registry() -> None:
    if not tracked():
        pytest.skip("no git here")
    assert [(name, found[0]) for name, text in texts() if (found := _INDEX.search(text))] == []


# --- rules and facts --------------------------------------------------------------------------------------------------

# Written in pieces, as above.
_ELSEWHERE = re.compile(r"\b(?:SP" + r"EC|CONT" + r"RACT|VENDOR" + r"_FACTS)\b")
_NUMBER = r"\d+(?:\.\d+)?"
_RULE = re.compile(rf"\brules?\s+({_NUMBER}(?:(?:,|\s+and|\s+to)\s+{_NUMBER})*)", re.IGNORECASE)
_FACT = re.compile(r"\bvendors\.md\s+(V\d+(?:(?:,|\s+and|\s+to)\s+V\d+)*)")


def numbered() -> list[str]:
    """Chapters and rules of the one page, facts of the other."""
    rules, facts = RULES.read_text("utf-8"), VENDORS.read_text("utf-8")
    return re.findall(r"^(?:## (?=\d)|- \*\*)([\d.]+)", rules, re.MULTILINE) + re.findall(
        r"^\| (V\d+) ", facts, re.MULTILINE
    )


def citations() -> Iterator[tuple[str, str]]:
    for name, text in texts():
        if not name.startswith(("tests/histories/", "LICENSE")):
            for pattern, number in ((_RULE, _NUMBER), (_FACT, r"V\d+")):
                for cited in pattern.findall(text):
                    yield from ((name, one) for one in re.findall(number, cited))


def test_a_number_stands_for_one_rule_or_fact_of_its_chapter() -> None:
    numbers = numbered()
    assert len(numbers) > 100
    assert [one for one, times in Counter(numbers).items() if times > 1] == []
    chapter = ""
    for number in numbers:
        chapter = chapter if "." in number else number
        assert number.split(".")[0] == chapter


def test_every_cited_number_exists() -> None:
    if not tracked():
        pytest.skip("no git here")
    cited = list(citations())
    assert {"calltasks", "activities", "workflows", "tests", "docs"} <= {name.split("/")[0] for name, _ in cited}
    assert [(name, number) for name, number in cited if number not in numbered()] == []


def test_nothing_cites_what_is_not_here() -> None:
    if not tracked():
        pytest.skip("no git here")
    assert [(name, found[0]) for name, text in texts() if (found := _ELSEWHERE.search(text))] == []


def test_the_files_that_rely_on_a_fact_exist() -> None:
    named = re.findall(r"`([\w.-]+/[\w./-]+)`", VENDORS.read_text("utf-8"))
    assert len(named) > 30
    assert [name for name in named if not (PROJECT / name).exists()] == []


def test_the_options_of_the_rules_are_those_of_the_program() -> None:
    rule = re.search(r"^- \*\*17\.2\*\*(.*?)^- ", RULES.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert rule is not None
    told = dict(re.findall(r"`(\w+)`\s+(\d+)", rule[1]))
    defaults = Options().model_dump()
    assert {name: float(value) for name, value in told.items()} == {
        name: value for name, value in defaults.items() if value is not None
    }
    assert all(f"`{name}`" in rule[1] for name in defaults)


# --- Temporal ---------------------------------------------------------------------------------------------------------


def test_the_search_attributes_that_are_to_be_registered_are_those_of_the_program() -> None:
    registered = dict(re.findall(r"--name (\w+) --type (\w+)", OPERATIONS.read_text("utf-8").replace("\\\n", " ")))
    assert registered == SEARCH_ATTRIBUTES
