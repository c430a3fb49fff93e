"""The real parts that tests run against, each started when the first test wants it and stopped at the end of its scope.

| fixture | scope | what it is |
| --- | --- | --- |
| `mariadb` | session | as `DATABASE` says, relaxed: tests that kill a server start one of their own |
| `database_url` | test | a `DATABASE_URL` of a database of its own, schema applied |
| `temporal` | module | an `EmbeddedTemporal`, headless: tests that kill a server start one of their own |
| `temporal_client` | test | a `temporalio` client of it |
| `sites` | test | opens `Site`s of `tests/pipeline.py`, each a pipeline of its own on the servers above |
| `restarting_sites` | test | the same, on a Temporal server of its own where 60 events suggest a restart as new |
| `certificates` | session | `Certificates` of `tests/tls.py` |
| `simulator` | test | simulators within this process; `SimulatorOptions` by indirect parametrization |

Workflows of a module's tests share the Temporal server: they need workflow ids or task queues of their own. One server
for all would spend a quarter of the run's CPU on the namespaces of tests that are over.
"""

import os
import re
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from temporalio.client import Client

from devstack.database_programs import chosen_program
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions, Simulators, running

if TYPE_CHECKING:
    from tests.pipeline import Sites
    from tests.tls import Certificates

# A shell lets what it starts in the background ignore Ctrl-C, and so would every program that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
_SETTINGS = re.compile(
    r"(TEMPORAL|ALIBABA_CLOUD|OUTBOUND_BOT|DASHSCOPE|ANALYSIS)_.*"
    r"|EVENTS_.*|METRICS_ADDRESS|LOG_FORMAT|OTEL_.*"
    r"|CODEC_SERVER_.*|PAYLOAD_ENCRYPTION_KEYS|OSS_ENDPOINT|RECORDING_.*"
    r"|DATABASE_URL|TIME_ZONE|RECORDING_ARCHIVE|API_.*|(?i:(https?|all|no)_proxy)"
)


# Whole campaigns about the platform, the model, people or processes: their statements are those of other tests.
NOT_ABOUT_THE_DATABASE = frozenset(
    f"test_{subject}.py"
    for subject in (
        *("api_process", "console_browser", "conversations", "dispatch_losses", "monitor", "monitoring", "new_step"),
        *("reanalysis", "recordings", "restarts", "row_pace", "screens", "starter", "stops", "strategy"),
        *("task_options", "telemetry", "tracing", "unpaid", "who_dials", "withdrawals"),
    )
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The marker `database` is on every test to which the server `mariadb` can make a difference. What takes longest
    begins first: at the end the other processes would have nothing to do beside it."""
    items.sort(key=lambda item: -sum(item.get_closest_marker(name) is not None for name in ("faults", "long")))
    for item in items:
        if "mariadb" in getattr(item, "fixturenames", ()) and item.path.name not in NOT_ABOUT_THE_DATABASE:
            item.add_marker(pytest.mark.database)
        started = {"mariadb", "temporal", "certificates", "simulator"} & set(getattr(item, "fixturenames", ()))
        if started or item.get_closest_marker("database"):
            item.add_marker(pytest.mark.server)


def pytest_report_header() -> str:
    return f"database server: {chosen_program().name}"


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """No test depends on the settings, the profile or the proxy of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if _SETTINGS.fullmatch(name):
                patch.delenv(name)
        patch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMariaDB]:
    server = EmbeddedMariaDB(tmp_path_factory.mktemp("mariadb"), relaxed=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def database_url(mariadb: EmbeddedMariaDB) -> Iterator[str]:
    from calltasks.database import schema

    name = f"{mariadb.database}_{secrets.token_hex(6)}"
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{name}`")
        try:
            with mariadb.connect(name) as own, own.cursor() as tables:
                schema.apply(tables)
            yield mariadb.url_of(name)
        finally:
            cursor.execute(f"DROP DATABASE `{name}`")


@pytest.fixture(scope="module")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTemporal]:
    server = EmbeddedTemporal(tmp_path_factory.mktemp("temporal"), headless=True)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
async def sites(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> "AsyncIterator[Sites]":
    from tests.pipeline import opening_sites

    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        yield sites


@pytest.fixture
async def restarting_sites(
    mariadb: EmbeddedMariaDB, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> "AsyncIterator[Sites]":
    from tests.pipeline import opening_sites

    suggestion = ["--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=60"]
    server = EmbeddedTemporal(tmp_path / "temporal", headless=True, options=suggestion)
    try:
        server.start()
        async with opening_sites(mariadb, server, monkeypatch) as sites:
            yield sites
    finally:
        server.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> "Certificates":
    from tests.tls import write_certificates

    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def temporal_client(temporal: EmbeddedTemporal) -> Client:
    return await Client.connect(temporal.address, namespace=temporal.namespace)


@pytest.fixture
async def simulator(request: pytest.FixtureRequest) -> AsyncIterator[Simulators]:
    """`simulators.running(...)`: has `.url` and `.world`."""
    async with running(getattr(request, "param", SimulatorOptions())) as simulators:
        yield simulators
