"""Payload encryption and the codec endpoint of the Temporal UI."""

import ast
import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import ResetStickyTaskQueueRequest
from temporalio.client import WorkflowHistory
from temporalio.exceptions import ApplicationError

from calltasks.errors import SettingsError
from calltasks.settings import CodecServerSettings, EncryptionSettings, load
from calltasks.temporal.codec_server import CodecServer
from calltasks.temporal.connection import connect
from calltasks.temporal.encryption import CIPHER, ENCODING, DecryptionError, EncryptionCodec, data_converter
from devstack.processes import free_port
from devstack.temporal import find_temporal
from simulators import SimulatorOptions
from tests.pipeline import QUICK, Site, Sites, assert_finished, decoded

PROJECT = Path(__file__).resolve().parent.parent
OLD_KEY, NEW_KEY = bytes(range(32)), bytes(range(100, 132))
TOKEN = "a-codec-token-for-tests"
ORIGIN = "http://127.0.0.1:8233"
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'{"task_id": 42}')


def setting(**keys: bytes) -> str:
    return ",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in keys.items())


OLD, ROTATED = setting(old=OLD_KEY), setting(new=NEW_KEY, old=OLD_KEY)


# --- the codec ------------------------------------------------------------------------------------------------------


@given(metadata=st.dictionaries(st.text(max_size=20), st.binary(max_size=20), max_size=4), data=st.binary())
def test_what_is_encrypted_comes_back_as_it_was(metadata: dict[str, bytes], data: bytes) -> None:
    payload = Payload(metadata=metadata, data=data)
    codec = EncryptionCodec({"old": OLD_KEY})
    encrypted = asyncio.run(codec.encode([payload, payload]))
    assert asyncio.run(codec.decode(encrypted)) == [payload, payload]
    assert encrypted[0].data != encrypted[1].data, "a nonce was used twice"
    assert all(part.metadata["encoding"] == ENCODING for part in encrypted)


async def test_the_first_key_encrypts_and_every_key_decrypts() -> None:
    before, after = EncryptionCodec({"old": OLD_KEY}), EncryptionCodec({"new": NEW_KEY, "old": OLD_KEY})
    by_old, by_new = (await before.encode([PLAIN]))[0], (await after.encode([PLAIN]))[0]
    assert by_old.metadata["encryption-key-id"] == b"old"
    assert by_new.metadata["encryption-key-id"] == b"new"
    assert by_new.metadata["encryption-cipher"] == CIPHER
    assert await after.decode([by_old, by_new, PLAIN]) == [PLAIN, PLAIN, PLAIN]
    with pytest.raises(DecryptionError, match="no key 'new'"):
        await before.decode([by_new])


@pytest.mark.parametrize("position", [0, 5, 12, 20, -1])
async def test_a_changed_payload_is_refused(position: int) -> None:
    codec = EncryptionCodec({"old": OLD_KEY})
    encrypted = (await codec.encode([PLAIN]))[0]
    data = bytearray(encrypted.data)
    data[position] ^= 1
    encrypted.data = bytes(data)
    with pytest.raises(DecryptionError):
        await codec.decode([encrypted])


async def test_a_payload_is_refused_under_the_id_of_another_key_and_when_cut() -> None:
    codec = EncryptionCodec({"new": OLD_KEY, "old": OLD_KEY})
    encrypted = (await codec.encode([PLAIN]))[0]
    relabelled = Payload(metadata={**encrypted.metadata, "encryption-key-id": b"old"}, data=encrypted.data)
    for payload in (relabelled, *(Payload(metadata=encrypted.metadata, data=encrypted.data[:n]) for n in (0, 5, 12))):
        with pytest.raises(DecryptionError):
            await codec.decode([payload])


async def test_failures_keep_message_and_stack_trace_to_themselves() -> None:
    converter = data_converter({"old": OLD_KEY})
    failure = Failure()
    await converter.encode_failure(ApplicationError("what went wrong", {"task_id": 42}), failure)
    stored = failure.SerializeToString()
    assert b"went wrong" not in stored and b"task_id" not in stored
    error = await converter.decode_failure(failure)
    assert (
        isinstance(error, ApplicationError)
        and error.message == "what went wrong"
        and error.details == ({"task_id": 42},)
    )


def test_without_keys_nothing_changes() -> None:
    assert load(EncryptionSettings).keys == {} and data_converter({}).payload_codec is None


@pytest.mark.parametrize(
    "value",
    [
        *("key", "key:", OLD.removeprefix("old"), f"a b{OLD.removeprefix('old')}", setting(short=OLD_KEY[:16])),
        *(f"{OLD},{OLD}", f"{OLD};{setting(new=NEW_KEY)}", "key:" + "é" * 44),
    ],
)
def test_a_wrong_key_is_one_line_without_the_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYLOAD_ENCRYPTION_KEYS", value)
    with pytest.raises(SettingsError, match=r"^settings: PAYLOAD_ENCRYPTION_KEYS") as raised:
        load(EncryptionSettings)
    assert "\n" not in str(raised.value)
    assert base64.b64encode(OLD_KEY).decode()[:8] not in str(raised.value)


def test_keys_are_not_shown_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYLOAD_ENCRYPTION_KEYS", OLD)
    loaded = load(EncryptionSettings)
    assert loaded.keys == {"old": OLD_KEY}
    assert OLD.partition(":")[2] not in f"{loaded!r} {loaded}"


def test_every_client_of_the_product_is_made_in_one_place() -> None:
    files = [file for part in ("activities", "calltasks", "workflows") for file in (PROJECT / part).rglob("*.py")]
    makers = {
        file.relative_to(PROJECT).as_posix()
        for file in (*files, *PROJECT.glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "connect"
        if isinstance(node.value, ast.Name) and node.value.id == "Client"
    }
    assert makers == {"calltasks/temporal/connection.py"}


# --- whole runs -----------------------------------------------------------------------------------------------------


def payloads(history: WorkflowHistory) -> Iterator[dict[str, Any]]:
    """Every payload of a history but the values of search attributes, which the server has to read."""

    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if set(value) <= {"metadata", "data"} and "metadata" in value:
                yield value
            for key, inner in value.items():
                if key != "searchAttributes":
                    yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    yield from walk(history.to_json_dict())


def key_ids(history: WorkflowHistory) -> set[str]:
    """The keys that a history's payloads are encrypted by; "" stands for none."""
    return {
        base64.b64decode(payload["metadata"].get("encryption-key-id", "")).decode() for payload in payloads(history)
    }


async def test_a_whole_task_runs_encrypted(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await sites(PAYLOAD_ENCRYPTION_KEYS=OLD)
    site.client = await connect()
    site.add_leads(40)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id)
        assert (await site.progress(task_id))["follow_ups"] == result["follow_ups"]
    assert_finished(site, task_id, result)
    history = await site.handle(task_id).fetch_history()
    assert key_ids(history) == {"old"}
    assert "task_id" not in decoded(history)
    site.environment["PAYLOAD_ENCRYPTION_KEYS"] = setting(new=NEW_KEY)
    async with site.calls() as calls:
        with pytest.raises(SettingsError, match="no key 'old' in PAYLOAD_ENCRYPTION_KEYS"):
            await calls.result(task_id)
    monkeypatch.delenv("PAYLOAD_ENCRYPTION_KEYS")
    with pytest.raises(Exception, match="binary/encrypted"):
        await (await connect()).get_workflow_handle(site.handle(task_id).id).result()


async def polled_further(site: Site, task_id: int, events: int) -> None:
    """Wait until all calls are known and the history has so many events."""
    async with asyncio.timeout(150):
        while True:
            called = (await site.progress(task_id))["called"]
            if called == 20 and len((await site.handle(task_id).fetch_history()).events) >= events:
                return
            await asyncio.sleep(0.02)


@pytest.mark.long
async def test_a_run_survives_switching_encryption_on_and_rotating_the_key(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await sites(SimulatorOptions(time_scale=0.001))
    site.add_leads(20)
    task_id = await site.create_task()
    async with site.calls() as calls:
        assert await calls.start_call(task_id, QUICK)
    for keys in ("", OLD, ROTATED):
        monkeypatch.setenv("PAYLOAD_ENCRYPTION_KEYS", keys)
        site.client = await connect()
        before = len((await site.handle(task_id).fetch_history()).events)
        async with site.working():
            # A signal is encrypted by who sends it, the activities' messages by the worker.
            await site.handle(task_id).signal("refresh")
            await polled_further(site, task_id, before + 15)
        # Else the server waits ten seconds for the worker that is gone.
        execution = WorkflowExecution(workflow_id=site.handle(task_id).id)
        await site.client.workflow_service.reset_sticky_task_queue(
            ResetStickyTaskQueueRequest(namespace=site.client.namespace, execution=execution)
        )
    site.sim.world.clock.advance(86_400)
    async with site.working():
        result = await site.result(task_id)
    assert_finished(site, task_id, result)
    used = set().union(*[key_ids(history) for history in await site.histories()])
    assert used == {"", "old", "new"}


# --- the codec endpoint ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(keys: dict[str, bytes]) -> AsyncIterator[str]:
    settings = CodecServerSettings.model_validate({"codec_server_token": TOKEN, "codec_server_origin": ORIGIN})
    runner = web.AppRunner(CodecServer(EncryptionCodec(keys), settings).application())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async with serving({"old": OLD_KEY}) as url:
        yield url


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


async def body(*parts: Payload) -> str:
    return json_format.MessageToJson(Payloads(payloads=parts))


async def test_the_holder_of_the_token_reads_what_can_be_decrypted(server: str, http: aiohttp.ClientSession) -> None:
    mine = (await EncryptionCodec({"old": OLD_KEY}).encode([PLAIN]))[0]
    foreign = (await EncryptionCodec({"other": NEW_KEY}).encode([PLAIN]))[0]
    async with http.post(
        # As the UI asks.
        f"{server}/decode?preserveStorageRefs=true",
        data=await body(mine, PLAIN, foreign),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "X-Namespace": "default"},
    ) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        found = json_format.Parse(await answer.text(), Payloads())
    assert list(found.payloads) == [PLAIN, PLAIN, foreign]


async def test_a_browser_signs_in_once_and_then_reads_by_cookie(server: str, http: aiohttp.ClientSession) -> None:
    encrypted = await body((await EncryptionCodec({"old": OLD_KEY}).encode([PLAIN]))[0])
    async with http.post(f"{server}/decode", data=encrypted, headers={"Origin": ORIGIN}) as answer:
        assert answer.status == 401
    async with http.post(f"{server}/sign-in", data={"token": "not-the-token"}) as answer:
        assert answer.status == 403 and "Set-Cookie" not in answer.headers
    async with http.post(f"{server}/sign-in", data={"token": TOKEN}) as answer:
        assert answer.status == 200
        cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/decode" in cookie and TOKEN not in cookie
    async with http.post(f"{server}/decode", data=encrypted, headers={"Origin": ORIGIN}) as answer:
        assert answer.status == 200 and answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert json_format.Parse(await answer.text(), Payloads()).payloads[0] == PLAIN
    for origin in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {}):
        async with http.post(f"{server}/decode", data=encrypted, headers=origin) as answer:
            assert answer.status in (401, 403), origin


@pytest.mark.parametrize("change", [lambda e, s: f"{int(e) + 9}.{s}", lambda e, s: f"1.{s}", lambda e, s: e])
async def test_a_cookie_cannot_be_made_up(
    server: str, http: aiohttp.ClientSession, change: Callable[[str, str], str]
) -> None:
    async with http.post(f"{server}/sign-in", data={"token": TOKEN}) as answer:
        expires, signature = answer.cookies["codec-session"].value.split(".")
    headers = {"Origin": ORIGIN, "Cookie": f"codec-session={change(expires, signature)}"}
    async with aiohttp.ClientSession() as fresh, fresh.post(f"{server}/decode", data="{}", headers=headers) as answer:
        assert answer.status == 401


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer é"])
async def test_no_other_credential_opens(server: str, http: aiohttp.ClientSession, value: str) -> None:
    async with http.post(f"{server}/decode", data="{}", headers={"Authorization": value}) as answer:
        assert answer.status == 401


async def test_only_the_ui_may_ask_from_a_browser(server: str, http: aiohttp.ClientSession) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-namespace"}
    async with http.options(f"{server}/decode", headers=asked | {"Origin": ORIGIN}) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert {"content-type", "x-namespace"} <= set(re.split(", *", answer.headers["Access-Control-Allow-Headers"]))
    async with http.options(f"{server}/decode", headers=asked | {"Origin": "http://evil.example"}) as answer:
        assert answer.status == 403 and "Access-Control-Allow-Origin" not in answer.headers
    async with http.post(f"{server}/encode", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("text", ["", "1", '{"payloads": 1}', "{" * 5000, "\xff", '{"payloads": [{"data": 7}]}'])
async def test_what_is_no_request_is_answered(server: str, http: aiohttp.ClientSession, text: str) -> None:
    async with http.post(
        f"{server}/decode", data=text.encode("latin-1"), headers={"Authorization": f"Bearer {TOKEN}"}
    ) as answer:
        assert answer.status == 400


async def encrypted_run(site: Site) -> str:
    """The id of a run that has begun and that no worker has."""
    site.client = await connect()
    site.add_leads(1)
    task_id = await site.create_task()
    async with site.calls() as calls:
        assert await calls.start_call(task_id, QUICK)
    return site.handle(task_id).id


async def test_the_process_shows_the_command_line_what_is_encrypted(sites: Sites) -> None:
    site = await sites(PAYLOAD_ENCRYPTION_KEYS=OLD)
    workflow_id = await encrypted_run(site)
    port = free_port()
    environment = os.environ | {"CODEC_SERVER_TOKEN": TOKEN, "CODEC_SERVER_PORT": str(port)}
    command = [sys.executable, "-m", "calltasks.temporal.codec_server"]
    server = await asyncio.create_subprocess_exec(
        *command, cwd=PROJECT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert server.stderr is not None
    try:
        async with asyncio.timeout(150):
            assert b"codec server ready" in await server.stderr.readline()
        show = [
            *(find_temporal(), "workflow", "show", "-w", workflow_id, "-o", "json", "--codec-auth", f"Bearer {TOKEN}"),
            *("--address", os.environ["TEMPORAL_ADDRESS"], "-n", os.environ["TEMPORAL_NAMESPACE"]),
        ]
        plain, encrypted = [
            await asyncio.to_thread(subprocess.run, [*show, *more], capture_output=True, text=True, check=True)
            for more in (["--codec-endpoint", f"http://127.0.0.1:{port}"], [])
        ]
    finally:
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
    started = json.loads(plain.stdout)["events"][0]["workflowExecutionStartedEventAttributes"]
    assert b'"task_id":' in base64.b64decode(started["input"]["payloads"][0]["data"])
    started = json.loads(encrypted.stdout)["events"][0]["workflowExecutionStartedEventAttributes"]
    assert base64.b64decode(started["input"]["payloads"][0]["metadata"]["encoding"]) == ENCODING


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CODEC_SERVER_TOKEN": TOKEN}, "PAYLOAD_ENCRYPTION_KEYS is not set"),
        ({"PAYLOAD_ENCRYPTION_KEYS": OLD}, "CODEC_SERVER_TOKEN is not set"),
        ({"PAYLOAD_ENCRYPTION_KEYS": OLD, "CODEC_SERVER_TOKEN": "short"}, "CODEC_SERVER_TOKEN"),
        (
            {"PAYLOAD_ENCRYPTION_KEYS": OLD, "CODEC_SERVER_TOKEN": TOKEN, "CODEC_SERVER_ORIGIN": "*"},
            "CODEC_SERVER_ORIGIN",
        ),
    ],
)
def test_a_missing_setting_is_one_line(environment: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calltasks.temporal.codec_server"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
