"""The HTTP interface as a process: outages, settings, tokens, errors of our own, its log and its specification."""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from calltasks import call_tasks as starter
from calltasks.api.access import Tokens
from calltasks.api.answers import answer_to, success
from calltasks.api.application import build
from calltasks.api.server import main
from calltasks.call_tasks import CallTasks
from calltasks.errors import PermanentError, SettingsError
from calltasks.settings import ApiSettings, Grant, load
from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import Child, wait_until
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions, running_in_thread
from tests.api_site import (
    ORGANIZATION,
    PATHS,
    TOKEN,
    TOKENS,
    ApiSite,
    api_settings,
    failed,
    new_database,
    opening,
)
from tests.pipeline import environment as environment_of_a_site

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    with (
        running_in_thread(SimulatorOptions(calls_over=True, answer_rate=0.6)) as simulators,
        opening(mariadb, temporal, simulators.url) as site,
    ):
        yield site


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_tokens_are_kept_as_digests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKENS", api_settings()["API_TOKENS"])
    settings = load(ApiSettings)
    tokens = Tokens(settings.api_tokens)
    assert not any(token in f"{settings!r} {vars(settings)} {vars(tokens)}" for token in TOKENS)
    assert {token: tokens.grant_of(token.encode()).organization_id for token in TOKENS} == TOKENS  # type: ignore[union-attr]
    for wrong in ("", "token", TOKEN + " ", TOKEN.upper()):
        assert tokens.grant_of(wrong.encode()) is None


@pytest.mark.parametrize(
    "value", ["", "{}", "[]", "x", '{"": "org"}', '{"t": ""}', '{"t": 7}', '{"t": null}', "[" * 100_000]
)
def test_wrong_tokens_are_refused_without_being_quoted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("API_TOKENS", value)
    with pytest.raises(SettingsError, match=r"^settings: API_TOKENS") as refused:
        load(ApiSettings)
    assert "\n" not in str(refused.value) and (len(value) < 3 or value not in str(refused.value))


# --- errors of our own ----------------------------------------------------------------------------------------------


class Broken:
    """Call tasks of which every use fails in a way that nobody foresaw; its text quotes what no log may hold."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError("13900000001 客户说")


def unforeseen(path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        app = build(cast(CallTasks, Broken()), digests())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
            return await client.post(path, json={"task_id": 1}, headers={"access-token": TOKEN, "x-request-id": "r-1"})

    return asyncio.run(ask())


def digests() -> dict[bytes, Grant]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_TOKENS", api_settings()["API_TOKENS"])
        return load(ApiSettings).api_tokens


def test_an_error_of_ours_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = unforeseen("/start-call-task")
    message = failed(answer, 500)
    assert answer.headers["x-request-id"] == "r-1"
    assert "KeyError" not in message and "KeyError at " in caplog.text and "endpoints.py" in caplog.text
    assert "1390" not in message + caplog.text and "客户" not in message + caplog.text


def test_a_text_that_the_database_has_no_room_for_is_the_callers_mistake() -> None:
    answer = answer_to(PermanentError("MySQL", "create", "1406"))
    assert answer and answer.status_code == 400


def test_half_characters_of_the_platform_are_no_error() -> None:
    assert json.loads(bytes(success({"Script": "车\ud83d"}, "found").body))["data"] == {"Script": "车?"}


# --- outages --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_outages_are_503_and_end_with_the_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starter, "ANSWER_SECONDS", timedelta(seconds=1))
    mariadb, temporal = EmbeddedMariaDB(tmp_path / "mariadb"), EmbeddedTemporal(tmp_path / "temporal", headless=True)
    try:
        mariadb.start()
        temporal.start()
        with (
            running_in_thread(SimulatorOptions(calls_over=True)) as simulators,
            opening(mariadb, temporal, simulators.url, working=False) as site,
        ):
            outages(site, mariadb, temporal)
    finally:
        mariadb.stop()
        temporal.stop()
    assert "Traceback" not in caplog.text


def outages(site: ApiSite, mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> None:
    task_id = site.create()
    assert site.done("/start-call-task", {"task_id": task_id})["started"]
    progress = f"/call-tasks/{task_id}/progress"
    assert "worker" in failed(site.ask("GET", progress), 503)

    mariadb.kill()
    for path, body in requests(task_id):
        assert "database" in failed(site.ask("POST", path, body), 503)
    assert "database" in failed(site.ask("GET", progress), 503)
    assert health(site) == (503, {"database": False, "temporal": True})
    mariadb.start()
    assert health(site) == (200, {"database": True, "temporal": True})
    assert site.done("/start-call-task", {"task_id": task_id})["started"] is False

    temporal.kill()
    with ThreadPoolExecutor() as threads:
        posts = [("/start-call-task", {"task_id": task_id}), ("/auto-task", {"action": "check"})]
        asked = [threads.submit(site.ask, "POST", path, body) for path, body in posts]
        asked.append(threads.submit(site.ask, "GET", progress))
        assert health(site) == (503, {"database": True, "temporal": False})
        assert all("Temporal" in failed(answer.result(), 503) for answer in asked)
    assert site.create() > task_id, "what needs no Temporal goes on"
    temporal.start()
    wait_until(lambda: health(site)[0] == 200, 150, "Temporal is found again")
    assert site.done("/start-call-task", {"task_id": task_id})["started"] is False


def requests(task_id: int) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("/create-autoCall-tasks", {"task_name": "x", "all_leads": True}),
        ("/start-call-task", {"task_id": task_id}),
        ("/query-task-execution", {"task_id": task_id}),
        ("/force-analyze", {"task_id": task_id, "all": True}),
    ]


def health(site: ApiSite) -> tuple[int, Any]:
    answer = site.http.get("/healthz")
    return answer.status_code, answer.json()["data"]


# --- the process, its log, its specification ------------------------------------------------------------------------


ACCOUNT = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "x",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "x",
    "OUTBOUND_BOT_INSTANCE_ID": "x",
}
ONE_TOKEN = {"API_TOKENS": '{"secret-token": "org"}'}
EMPTY_DATABASE, WRONG_PASSWORD = "an empty database", "a wrong password"


@pytest.mark.parametrize(
    ("environment", "code", "reason"),
    [
        ({"API_TOKENS": "secret-token"}, 2, "API_TOKENS: must be"),
        (ONE_TOKEN | {"API_PORT": "99999"}, 2, "API_PORT"),
        (ONE_TOKEN, 2, "ALIBABA_CLOUD_ACCESS_KEY_ID is not set"),
        (ONE_TOKEN | ACCOUNT, 2, "DATABASE_URL is not set"),
        (ONE_TOKEN | ACCOUNT | {"DATABASE_URL": "mysql+pymysql://u:p@127.0.0.1:1/d"}, 1, "DATABASE_URL"),
        (ONE_TOKEN | ACCOUNT | {"DATABASE_URL": EMPTY_DATABASE}, 2, "init-db"),
        (ONE_TOKEN | ACCOUNT | {"DATABASE_URL": WRONG_PASSWORD}, 2, "wrong user or password in DATABASE_URL"),
        (
            ONE_TOKEN | ACCOUNT | {"TEMPORAL_ADDRESS": "127.0.0.1:1", "DATABASE_URL": EMPTY_DATABASE},
            1,
            "TEMPORAL_ADDRESS",
        ),
    ],
)
def test_the_process_says_in_one_line_why_it_does_not_start(
    environment: dict[str, str],
    code: int,
    reason: str,
    mariadb: EmbeddedMariaDB,
    temporal: EmbeddedTemporal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["api"])
    for variable in environment_of_a_site("", temporal, "", ""):
        monkeypatch.delenv(variable, raising=False)
    with new_database(mariadb) as name:
        urls = {EMPTY_DATABASE: mariadb.url_of(name), WRONG_PASSWORD: mariadb.url_of(name).replace("@", "x@")}
        for variable, value in ({"TEMPORAL_ADDRESS": temporal.address} | environment).items():
            monkeypatch.setenv(variable, urls.get(value, value))
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (code, "")
    assert said.err.startswith("api: ") and said.err.count("\n") == 1
    assert reason in said.err and "secret-token" not in said.err


def test_the_command_ends_with_its_exit_code() -> None:
    command = [sys.executable, "-m", "calltasks.api"]
    environment = {"PATH": os.environ["PATH"]}
    ended = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "api: settings: API_TOKENS is not set\n")


def test_the_process_serves_logs_and_stops(tmp_path: Path, site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = site.create()
    site.done("/start-call-task", {"task_id": complete})
    site.finished(complete)
    for variable, value in api_settings().items():
        monkeypatch.setenv(variable, value)
    child = Child(
        "api",
        [sys.executable, "-m", "calltasks.api"],
        log=tmp_path / "api.log",
        directory=PROJECT,
        ready_line="api ready",
    )
    child.start()
    found = re.search(r"api ready on (http://127\.0\.0\.1:\d+)", child.output())
    assert found
    try:
        with httpx.Client(base_url=found[1], headers={"access-token": TOKEN}, trust_env=False) as http:
            named = http.post(
                "/query-task-execution",
                json={"task_id": complete, "note": "13900000001"},
                headers={"x-request-id": "front-end_1.2 \x7f<b>" + "9" * 100},
            )
            assert named.headers["x-request-id"] == "front-end_1.2b" + "9" * 50
            unnamed = [http.get("/nothing?phone=13900000001").headers["x-request-id"] for _ in range(2)]
            assert len(set(unnamed)) == 2 and all(re.fullmatch(r"[0-9a-f]{32}", id_) for id_ in unnamed)
    finally:
        child.signal(signal.SIGTERM)
        assert child.stop() == 0
    log = child.output()
    line = rf"\[{re.escape(named.headers['x-request-id'])}\] POST /query-task-execution {ORGANIZATION} 200 \d+ ms"
    assert re.search(line, log), log
    assert f"[{unnamed[0]}] GET - {ORGANIZATION} 404" in log
    for private in (*TOKENS, "13900000001", "nothing", "测试客户", "Traceback"):
        assert private not in log


def test_the_log_is_json_when_asked_for(tmp_path: Path, site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {**api_settings(), "LOG_FORMAT": "json"}.items():
        monkeypatch.setenv(variable, value)
    child = Child(
        "api",
        [sys.executable, "-m", "calltasks.api"],
        log=tmp_path / "api.log",
        directory=PROJECT,
        ready_line="api ready",
    )
    child.start()
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", child.output())
        assert found
        answer = httpx.get(f"{found[0]}/nothing", headers={"access-token": TOKEN}, trust_env=False)
    finally:
        child.signal(signal.SIGTERM)
        assert child.stop() == 0
    lines = [json.loads(line) for line in child.output().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    named = [line["message"] for line in lines if line.get("request_id") == answer.headers["x-request-id"]]
    assert named == [next(line["message"] for line in lines if line["message"].startswith(f"GET - {ORGANIZATION} 404"))]


def test_requests_leave_nothing_private_in_the_log(site: ApiSite, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="api")
    private = ("13900000099", "张三丰", TOKEN)
    for path in PATHS:
        body = {"task_id": private[0], "task_name": private[1], "action": private[2], "leads_ids": [private[1]]}
        site.ask("POST", path, body, params={"phone": private[0]})
    assert caplog.text and not any(text in caplog.text for text in private)


def test_the_specification_has_examples_of_everything(site: ApiSite) -> None:
    specification = site.http.get("/openapi.json").json()
    paths = specification["paths"]
    further = {"/opt-outs/check", "/call-tasks/{id}/progress", "/healthz", "/event-subscriptions"}
    assert paths.keys() == {*PATHS, *further}
    operations = [(path, operation) for path, methods in paths.items() for operation in methods.values()]
    schemas = specification["components"]["schemas"]
    for path, operation in operations:
        assert operation["summary"] and operation["description"]
        assert "422" not in operation["responses"] and "503" in operation["responses"]
        assert all("example" in answer["content"]["application/json"] for answer in operation["responses"].values())
        assert bool(operation.get("security")) == (path != "/healthz")
        if "requestBody" in operation:
            name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert schemas[name]["examples"]
    assert not {"HTTPValidationError", "ValidationError"} & schemas.keys()


@pytest.mark.long
def test_the_interface_is_as_the_specification_says(site: ApiSite, tmp_path: Path) -> None:
    # What no schema can say: that hours do not overlap, that a strategy ends after it begins (tests/test_strategy.py).
    accepted = 'checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409, "5xx"]'
    (tmp_path / "schemathesis.toml").write_text(f'[[operations]]\ninclude-path = "/start-call-task"\n{accepted}\n')
    program = str(Path(sys.executable).with_name("schemathesis"))
    options = ["--header", f"access-token: {TOKEN}", "--checks", "all", "--phases", "examples,coverage,fuzzing"]
    bounds = ["--max-examples", "15", "--generation-deterministic", "--no-color"]
    done = subprocess.run(
        [program, "run", f"{site.url}/openapi.json", *options, *bounds],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 selected / 14 total" in done.stdout
