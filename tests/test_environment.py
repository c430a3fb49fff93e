"""Whatever the environment and the command line hold: no traceback, one line, exit code 0, 1 or 2."""

import asyncio
import base64
import os
from collections.abc import Iterator

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import worker
from calltasks.cli import commands
from calltasks.cli.recordings import recordings
from calltasks.errors import PassingError, SettingsError
from calltasks.limiter import RateLimiter
from calltasks.model.analysis import AnalysisModel
from calltasks.platform.outbound_bot import OutboundBot
from calltasks.proxies import proxy_for
from calltasks.recordings.downloads import Downloads
from calltasks.settings import AnalysisSettings, PlatformSettings, load
from devstack.processes import free_port
from devstack.temporal import EmbeddedTemporal
from simulators import ACCESS_KEY_ID, ACCESS_KEY_SECRET, INSTANCE_ID, Simulators

commands.app.add_typer(recordings, name="recordings")
WORKER = typer.Typer(pretty_exceptions_enable=False)
WORKER.command()(worker.main)
NOWHERE = {
    "DATABASE_URL": "mysql+pymysql://crm:hidden-word@127.0.0.1:1/crm",
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "key-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "hidden-word",
    "OUTBOUND_BOT_INSTANCE_ID": "instance",
    "OUTBOUND_BOT_ENDPOINT": "http://127.0.0.1:1",
    "DASHSCOPE_API_KEY": "hidden-word",
    "DASHSCOPE_HTTP_BASE_URL": "http://127.0.0.1:1/api/v1",
    "TEMPORAL_ADDRESS": "127.0.0.1:1",
}
"""Everything is set, and nobody answers anywhere."""
ODD = [" ", "x", "é", "\udcff", "nan", "-1", "9" * 20, "[", "http://", "http://[", "://", "::1", "/", "/no/file", "a b",
       "{}", "[]", "socks5://127.0.0.1:1", "ftp://x", "127.0.0.1:99999", "a" * 5000]  # fmt: skip
NAMES = ["DATABASE_URL", "TIME_ZONE", "OUTBOUND_BOT_REGION", "OUTBOUND_BOT_ENDPOINT", "OUTBOUND_BOT_QPS",
         "DASHSCOPE_HTTP_BASE_URL", "ANALYSIS_QPM", "RECORDING_ARCHIVE", "PAYLOAD_ENCRYPTION_KEYS", "METRICS_ADDRESS",
         "LOG_FORMAT", "OTEL_EXPORTER_OTLP_ENDPOINT", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_TLS",
         "TEMPORAL_TLS_CLIENT_CERT_PATH", "TEMPORAL_TLS_SERVER_CA_CERT_PATH", "TEMPORAL_PROFILE", "ALL_PROXY",
         "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "LANG"]  # fmt: skip


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    yield monkeypatch


def is_one_line(result: Result) -> bool:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)
    assert "hidden-word" not in result.output
    return len(result.stderr.strip().splitlines()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_no_value_of_a_variable_ends_in_a_traceback(nowhere: pytest.MonkeyPatch, name: str) -> None:
    for value in ODD:
        nowhere.setenv(name, value)
        assert is_one_line(CliRunner().invoke(commands.app, ["monitor", "status"])), (name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", NOWHERE["DATABASE_URL"] + "?foo=1"),
        ("DATABASE_URL", NOWHERE["DATABASE_URL"] + "?read_timeout=abc"),
        ("DATABASE_URL", NOWHERE["DATABASE_URL"] + "?conv=1"),
        ("DATABASE_URL", "mysql+pymysql://crm:%zz@:@127.0.0.1:1/crm"),
        ("DATABASE_URL", f"mysql+pymysql://crm:hidden-word@{'a' * 100}/crm"),
        ("HTTP_PROXY", "socks://127.0.0.1:1"),
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("TIME_ZONE", "a" * 5000),
        ("DASHSCOPE_HTTP_BASE_URL", "http:///api/v1"),
        ("OUTBOUND_BOT_STRATEGY", '{"workingTime": "hidden-word"}'),
        ("OUTBOUND_BOT_STRATEGY", "\udcff"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("TEMPORAL_ADDRESS", "http://127.0.0.1:1"),
        ("TEMPORAL_NAMESPACE", "\udcff"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(nowhere: pytest.MonkeyPatch, name: str, value: str) -> None:
    nowhere.setenv(name, value)
    on = WORKER if name != "TEMPORAL_NAMESPACE" else commands.app
    result = CliRunner().invoke(on, [] if on is WORKER else ["monitor", "status"])
    if "proxy" in name.lower():
        # The worker opens Temporal first, where nobody answers: the address itself is asked.
        with pytest.raises(SettingsError, match=name):
            proxy_for("http://platform.example/")
        return
    assert is_one_line(result) and result.exit_code == 2 and name in result.stderr, result.stderr


def test_a_scheme_may_be_written_in_capitals(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("DATABASE_URL", NOWHERE["DATABASE_URL"].replace("mysql+pymysql", "MySQL+PyMySQL"))
    result = CliRunner().invoke(commands.app, ["init-db"])
    assert is_one_line(result) and "2003" in result.stderr


@pytest.mark.parametrize("namespace", ["nowhere", "a b"])
def test_a_namespace_that_does_not_exist_is_told(
    nowhere: pytest.MonkeyPatch, temporal: EmbeddedTemporal, namespace: str
) -> None:
    nowhere.setenv("TEMPORAL_ADDRESS", temporal.address)
    nowhere.setenv("TEMPORAL_NAMESPACE", namespace)
    for command in (["monitor", "status"], ["progress", "1"], ["refresh", "1"]):
        result = CliRunner().invoke(commands.app, command)
        assert is_one_line(result) and result.exit_code == 2 and "TEMPORAL_NAMESPACE" in result.stderr


WORDS = [
    *("start-call", "progress", "create-task", "monitor", "status", "force-analyze", "query-task-execution"),
    *(
        "evaluate",
        "recordings",
        "prune",
        "analyses",
        "refresh",
        "cancel",
        "--json",
        "--leads",
        "1,2",
        ",",
        "--all-leads",
    ),
    *("--name", "--organization", "--options", '{"poll_max":1}', '{"poll_max":"x"}', "--days", "--all", "--since"),
    *("2026-13-01", "--max-tokens", "--page", "0", "-1", "1", "9" * 20, "--help", "--wait", "--no-update"),
]
ARGUMENTS = st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=20)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(ARGUMENTS, max_size=6))
def test_no_command_line_ends_in_a_traceback(nowhere: pytest.MonkeyPatch, arguments: list[str]) -> None:
    result = CliRunner().invoke(commands.app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)


# --- proxies ------------------------------------------------------------------------------------------------------


class Unlimited(RateLimiter):
    def __init__(self) -> None:
        async def reserve(seconds: float) -> float:
            return 0.0

        async def push_back(seconds: float) -> None: ...

        super().__init__(1e6, 10, reserve=reserve, push_back=push_back)


async def test_no_proxy_holds_for_the_platform_too(monkeypatch: pytest.MonkeyPatch, simulator: Simulators) -> None:
    account = {"ALIBABA_CLOUD_ACCESS_KEY_ID": ACCESS_KEY_ID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": ACCESS_KEY_SECRET}
    for name, value in (
        account | {"OUTBOUND_BOT_INSTANCE_ID": INSTANCE_ID, "OUTBOUND_BOT_ENDPOINT": simulator.url}
    ).items():
        monkeypatch.setenv(name, value)
    dead = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTP_PROXY", dead)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    direct = OutboundBot(load(PlatformSettings), Unlimited())
    monkeypatch.delenv("NO_PROXY")
    by_proxy = OutboundBot(load(PlatformSettings), Unlimited())
    try:
        assert await direct.session("org", 1).create_group("through no proxy")
        with pytest.raises(PassingError) as error:
            await by_proxy.session("org", 1).create_group("through a dead proxy")
        assert not error.value.sent, "nothing has left: nobody may have been dialled"
    finally:
        await direct.close()
        await by_proxy.close()


async def test_a_proxy_that_wants_a_key_gets_it_from_both_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the vendors' addresses as a whole, for they are asked by plain HTTP."""
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    for name, value in {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": ACCESS_KEY_SECRET,
        "OUTBOUND_BOT_INSTANCE_ID": INSTANCE_ID,
        "OUTBOUND_BOT_ENDPOINT": "http://platform.example",
        "DASHSCOPE_HTTP_BASE_URL": "http://model.example/api/v1",
        "DASHSCOPE_API_KEY": "key",
    }.items():
        monkeypatch.setenv(name, value)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@127.0.0.1:{server.sockets[0].getsockname()[1]}")
        platform = OutboundBot(load(PlatformSettings), Unlimited())
        model = AnalysisModel(load(AnalysisSettings), Unlimited())
        try:
            with pytest.raises(PassingError):
                await platform.session("org", 1).create_group("group")
            with pytest.raises(PassingError):
                await model.complete(system="json", user="a call", tenant="org")
        finally:
            await platform.close()
            await model.close()
    assert [request.split()[1].partition("?")[0] for request in heard] == [
        "http://platform.example/",
        "http://model.example/api/v1/services/aigc/text-generation/generation",
    ]
    key = "Proxy-Authorization: Basic " + base64.b64encode(b"user:p@ss").decode()
    assert all(key.lower() in request.lower() for request in heard), heard


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_without_a_scheme_is_one_for_http(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "proxy.example:3128")
    assert proxy_for("http://platform.example/") == "http://proxy.example:3128"
    monkeypatch.setenv("no_proxy", "example")
    assert proxy_for("http://platform.example/") is None


def test_another_address_s_proxy_is_no_matter_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert proxy_for("https://platform.example/") == "http://proxy.example:3128"
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_for("http://platform.example/") is None
    assert os.environ["ALL_PROXY"]


@pytest.mark.parametrize(
    "direct",
    [
        *(" * ", "other.example, *", "*.example", "[2001:db8::1]", "2001:db8::1", "2001:db8::/32", "192.0.2.1:8080"),
        *("[2001:db8::1]:8080", "192.0.2.0/24", "a.example 192.0.2.1", "PLATFORM.Example.", ".example"),
        "platform.example:8080",
    ],
)
def test_no_proxy_is_read_as_people_write_it(monkeypatch: pytest.MonkeyPatch, direct: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    addresses = ["http://platform.example:8080/", "http://192.0.2.1:8080/", "http://[2001:db8::1]:8080/"]
    monkeypatch.setenv("NO_PROXY", direct)
    assert None in [proxy_for(url) for url in addresses]
    monkeypatch.setenv("NO_PROXY", "platform.example:80,ample,192.0.2.1:1,192.0.3.0/24,/8,[::1],[,:,192.0.2.0/99,*x")
    assert [proxy_for(url) for url in addresses] == ["http://proxy.example:3128"] * 3


@pytest.mark.parametrize(
    "wrong",
    ["http://p x:1", "http://p\x01:1", f"http://{'a' * 300}:1", "http://a..b:1", "http://u:p#s@p:1", "http://:1"],
)
def test_what_is_no_proxy_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", wrong)
    with pytest.raises(SettingsError, match="HTTP_PROXY"):
        proxy_for("http://platform.example/")


def test_blanks_around_a_proxy_are_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", " http://proxy.example:3128\n")
    assert proxy_for("http://platform.example/") == "http://proxy.example:3128"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_recordings_are_fetched_through_the_same_proxy(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulators, name: str
) -> None:
    async def write(_piece: bytes) -> None: ...

    monkeypatch.setenv(name, f"127.0.0.1:{free_port()}")
    downloads = Downloads()
    try:
        for direct, expected in (("", "ClientProxyConnectionError"), ("127.0.0.0/8", "Http404")):
            monkeypatch.setenv("NO_PROXY", direct)
            with pytest.raises(PassingError, match=expected):
                await downloads.stream(f"{simulator.url}/no-such-recording", write)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
        with pytest.raises(PassingError, match="WrongProxy"):
            await downloads.stream(f"{simulator.url}/no-such-recording", write)
    finally:
        await downloads.close()
