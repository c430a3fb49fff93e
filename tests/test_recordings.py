"""The archive of recordings (SPEC 5): whole files under lasting names, whatever goes wrong on the way."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest
from aiohttp import web

import worker
from activities import recordings
from activities.recording_archive import Archived, archive_older, prune_older
from clients import archive as archive_module
from clients.archive import Archive, stem
from clients.downloads import Downloads
from clients.errors import PassingError
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from settings import ArchiveSettings, SettingsError, load
from simulators import Fault, SimulatorOptions
from tests.pipeline import PROJECT, ZONE, LogLines, Site, Sites, assert_numbers, opening_sites

CALLS = SimulatorOptions(calls_over=True, answer_rate=1, recording_bytes=4000)


@pytest.fixture
async def sites(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        yield sites


async def campaign(site: Site, leads: int = 12) -> tuple[int, dict[str, Any]]:
    """A task, run to its end."""
    site.add_leads(leads)
    task_id = await site.create_task()
    async with site.working():
        return task_id, await site.run(task_id)


def audio(site: Site, call_task_id: str) -> bytes:
    """What the platform recorded."""
    signed = json.loads(b"{%b}" % site.sim.bot.recordings.answer(call_task_id, "simulator"))
    url = urlsplit(signed["DownloadParams"]["SignatureUrl"])
    query = dict(pair.split("=", 1) for pair in url.query.split("&"))
    return site.sim.bot.recordings.serve(
        f"{call_task_id}.wav", query | {"Signature": query["Signature"].replace("%2F", "/").replace("%2B", "+")[:-3] + "="}
    )


def assert_archived(site: Site, task_id: int, root: str) -> None:
    """Every recorded call has its recording in the archive, whole, and nothing else lies there."""
    fs, path = fsspec.core.url_to_fs(root)
    truth = {job["task_id"]: job for job in site.truth(task_id)}
    wanted = {}
    for row in site.rows(task_id):
        url = f"{root}/{task_id}/{row['call_job_id']}-{row['call_task_id']}.wav"
        recorded = truth[row["call_task_id"]]["recording"]
        assert row["recording_url"] == (url if recorded else None)
        if recorded:
            wanted[f"{row['call_job_id']}-{row['call_task_id']}.wav"] = audio(site, row["call_task_id"])
    found = {name.rsplit("/", 1)[-1]: fs.cat(name) for name in fs.find(f"{path}/{task_id}")}
    assert wanted and found == wanted
    assert not [name for name in fs.find(path) if f"/{task_id}/" not in name], "something else lies in the archive"


def fetched(site: Site) -> int:
    """Recordings that the simulators served whole."""
    return int(site.stats()["outcomes"]["recording"].get("ok", 0))


@pytest.mark.parametrize("scheme", ["file", "memory"])
async def test_recordings_lie_whole_under_lasting_names(sites: Sites, tmp_path: Path, scheme: str) -> None:
    root = f"{scheme}://{tmp_path}/not/there/yet"
    options = SimulatorOptions(calls_over=True, answer_rate=1, recording_never=0.2, recording_bytes=1_500_000)
    site = await sites(options, RECORDING_ARCHIVE=f"{root}/")
    with LogLines() as log:
        task_id, result = await campaign(site)
    assert_archived(site, task_id, root)
    assert_numbers(site, task_id, result)
    assert 0 < result["recordings"] < 12 and result["outcome"] == "complete"
    assert fetched(site) == result["recordings"]
    assert not [line for line in log.lines if "Signature" in line or "1390000" in line]
