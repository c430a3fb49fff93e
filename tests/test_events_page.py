"""docs/events.md: the receiver that it shows, run as it stands, and the commands."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import activities.events
from devstack.processes import free_port
from simulators import SimulatorOptions
from tests.pipeline import ORGANIZATION, Sites, eventually
from tests.programs import own_environment
from tests.receiver import receiving

PROJECT = Path(__file__).resolve().parent.parent
LOOPBACK = {"EVENTS_NETWORKS": "127.0.0.0/8"}


def receiver_of_the_page() -> str:
    found = re.findall(r"^```python\n(.*?)^```", (PROJECT / "docs/events.md").read_text("utf-8"), re.M | re.S)
    assert len(found) == 1 and len([line for line in found[0].splitlines() if line.strip()]) <= 20
    return str(found[0])


async def test_the_receiver_of_the_page_takes_a_campaign(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities.events, "LOOK_SECONDS", 0.1)
    (tmp_path / "receiver.py").write_text(receiver_of_the_page())
    site = await sites(SimulatorOptions(calls_over=True), **LOOPBACK)
    site.add_leads(3)
    task_id = await site.create_task()
    port = free_port()
    async with site.calls() as calls:
        made = await calls.events.subscribe(ORGANIZATION, f"http://127.0.0.1:{port}/events", batch=True)
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "uvicorn", "receiver:app", "--port", str(port)),
        cwd=tmp_path,
        env=own_environment(EVENTS_SECRET=made.secret),
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as http:

            async def listens() -> bool:
                try:
                    return (await http.post(f"http://127.0.0.1:{port}/events", json={})).status_code == 401
                except httpx.TransportError:
                    return False

            await eventually(listens)
        async with site.working():
            await site.run(task_id)
            assert program.stdout is not None
            lines: list[str] = []
            while not any(line.startswith("task.complete") for line in lines):
                line = await asyncio.wait_for(program.stdout.readline(), 60)
                lines.append(line.decode())
    finally:
        program.terminate()
        await program.communicate()
    told = [line.split(" ", 1)[0] for line in lines if re.match(r"[a-z_]+\.[a-z_]+ \{", line)]
    assert sorted(told) == sorted(["task.calling", *["follow_up.written"] * 3, "task.calls_complete", "task.complete"])


@pytest.mark.long
async def test_the_commands(sites: Sites) -> None:
    site = await sites(**LOOPBACK)

    async def starter(*arguments: str, code: int = 0, json_: bool = True) -> Any:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "starter.py", "events", *arguments, "--organization", ORGANIZATION),
            *(["--json"] if json_ else []),
            cwd=PROJECT,
            env=own_environment(**site.environment),
            stdout=PIPE,
            stderr=PIPE,
        )
        said, complaint = await program.communicate()
        assert program.returncode == code, complaint.decode()
        return json.loads(said) if json_ and code == 0 else said.decode() + complaint.decode()

    async with receiving() as receiver:
        made = await starter("subscribe", receiver.url, "--kind", "task.complete", "--batch", "--since", "2026-11-01")
        receiver.secret = made["secret"]
        id_ = str(made["id"])
        assert (await starter("test", id_))["error"] == ""
        assert receiver.events[0]["type"] == "events.test"
        listed = await starter("list")
        assert [(one["id"], one["state"], one["batch"]) for one in listed] == [(made["id"], "active", True)]
        assert f"{id_} {receiver.url} active: 0 delivered" in await starter("list", json_=False)
        rotated = await starter("rotate", id_)
        assert rotated["secret"] != made["secret"]
        assert (await starter("replay", id_, "--since", "2026-11-30T08:00"))["id"] == made["id"]
        receiver.always = 500
        assert "Http500" in await starter("test", id_, code=1)
        assert "url: must be https" in await starter("subscribe", "https://10.0.0.1/", code=2)
        assert "kinds: there is no" in await starter("subscribe", receiver.url, "--kind", "task.begun", code=2)
        for since, utc in (
            ("2026-11-30T08:00", datetime(2026, 11, 30, 0)),
            ("2026-11-30T08:00Z", datetime(2026, 11, 30, 8)),
            ("2026-11-30T08:00+02:00", datetime(2026, 11, 30, 6)),
        ):
            await starter("replay", id_, "--since", since)
            assert site.sql("SELECT since FROM call_event_subscriptions") == [{"since": utc}]
        for nonsense in ("yesterday", "0001-01-01", "9999-12-31T23:00-05:00"):
            said = await starter("replay", id_, "--since", nonsense, code=2)
            assert "must be a moment" in said and len(said.splitlines()) == 1
        assert (await starter("unsubscribe", id_))["id"] == made["id"]
        assert "does not exist" in await starter("unsubscribe", id_, code=1)
    assert site.sql("SELECT id FROM call_event_subscriptions") == []
