"""The archive of recordings (rule 5): whole files under lasting names, whatever goes wrong on the way."""

import asyncio
import errno
import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from temporalio.testing import ActivityEnvironment
from typer.testing import CliRunner
from yarl import URL

from activities import recordings as recordings_module
from activities.recordings import RECORDING, RecordingRequest, Recordings, RecordingsSaved
from activities.steps import STEPS
from activities.tasks import ReviewRequest, Tasks
from calltasks.cli.recordings import recordings as command
from calltasks.errors import PassingError
from calltasks.recordings import archiving as recording_archive
from calltasks.recordings import finding
from calltasks.recordings.archive import Archive
from calltasks.recordings.hearing import hear
from calltasks.wiring import Clients
from devstack.stack import PROJECT
from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import ZONE, assert_numbers, wall
from tests.pipeline import Site, Sites, phone
from tests.sayings import LogLines

CALLS = SimulatorOptions(calls_over=True, answer_rate=1)


async def campaign(site: Site, leads: int = 12) -> tuple[int, dict[str, Any]]:
    """A task, run to its end."""
    site.add_leads(leads)
    task_id = await site.create_task()
    async with site.working():
        return task_id, await site.run(task_id)


def audio(site: Site, call_task_id: str) -> bytes:
    """What the platform recorded of a call."""
    answer = json.loads(b"{%b}" % site.sim.outbound_bot.recordings.answer(call_task_id, "simulator"))
    url = URL(answer["DownloadParams"]["SignatureUrl"], encoded=True)
    return site.sim.outbound_bot.recordings.serve(url.name, url.query)


def assert_archived(site: Site, task_id: int, root: str) -> None:
    """Every recorded call has its recording in the archive, whole; nothing else lies there."""
    fs, path = fsspec.core.url_to_fs(root)
    recorded = {job["task_id"] for job in site.truth(task_id) if job["recording"]}
    wanted = {}
    for row in site.rows(task_id):
        name = f"{row['call_job_id']}-{row['call_task_id']}.wav"
        if row["call_task_id"] in recorded:
            assert row["recording_url"] == f"{root}/{task_id}/{name}"
            wanted[name] = audio(site, row["call_task_id"])
        else:
            assert not row["recording_url"]
    assert wanted
    assert {name.rsplit("/", 1)[-1]: fs.cat(name) for name in fs.find(path)} == wanted


def served(site: Site) -> int:
    """Recordings that the simulators sent whole."""
    return int(site.stats()["calls"].get("recording", {}).get("ok", 0))


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def old_campaign(site: Site, calls: int = 12) -> int:
    """A task whose calls are over and whose recordings nobody asked for."""
    numbers = range(1, calls + 1)
    rows = [{"leads_id": number, "leads_phone": phone(number)} for number in numbers]
    contacts = [Contact(phone=phone(number)) for number in numbers]
    task_id = site.old_task(rows, contacts, task_type=4)
    for row, job in zip(site.rows(task_id), site.truth(task_id), strict=True):
        site.sql(
            "UPDATE leads_task_list SET call_status = 'Succeeded', call_job_id = %s, call_task_id = %s,"
            " updated_time = %s WHERE id = %s",
            *(job["job_id"], job["task_id"], wall(job["actual_time"]), row["id"]),
        )
    return task_id


async def save_recordings(site: Site, task_id: int) -> RecordingsSaved:
    """The activity, as a worker runs it on all rows of a task."""
    ids = [row["id"] for row in site.rows(task_id)]
    request = RecordingRequest(
        task_id=task_id, organization_id="org7", rows=[[ids[0], ids[-1]]], grace=600, retry_interval=10
    )
    site.enter_environment()
    async with Clients() as clients:
        activity = Recordings(clients.database, clients.platform, await clients.archive())
        return await ActivityEnvironment().run(activity.save_recordings, request)


async def run_command(site: Site, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON result and messages of ``starter.py recordings …``."""
    site.enter_environment()
    done = await asyncio.to_thread(CliRunner().invoke, command, [*arguments, "--json"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout or "null"), done.stderr


async def test_recordings_lie_whole_under_lasting_names(sites: Sites, tmp_path: Path) -> None:
    options = SimulatorOptions(calls_over=True, answer_rate=1, recording_never=0.2, recording_bytes=1_500_000)
    root = f"file://{tmp_path}/not/there/yet"
    site = await sites(options, RECORDING_ARCHIVE=f"{root}/")
    with LogLines() as log:
        task_id, result = await campaign(site)
    assert_archived(site, task_id, root)
    assert_numbers(site, task_id, result)
    assert result["outcome"] == "complete"
    assert served(site) == result["recordings"] < result["called"]
    assert not [line for line in log.lines if "Signature" in line or "13900000" in line]


async def test_only_the_recordings_of_its_task_are_heard_of_a_call(sites: Sites, tmp_path: Path) -> None:
    root = f"file://{tmp_path}/archive"
    site = await sites(CALLS, RECORDING_ARCHIVE=root)
    task_id = old_campaign(site, 1)
    await save_recordings(site, task_id)
    [row] = site.rows(task_id)
    for beside in ("beside.wav", f"archive/{task_id}1/other.wav", f"archive/{task_id}/deep/er.wav", "archive/top.wav"):
        (tmp_path / beside).parent.mkdir(exist_ok=True)
        (tmp_path / beside).write_bytes(b"not of this call")

    async def heard(url: str) -> bool:
        site.sql("UPDATE leads_task_list SET recording_url = %s WHERE id = %s", url, row["id"])
        return await hear(clients, row["id"], "") is not None

    async with Clients() as clients:
        assert await heard(row["recording_url"])
        for url in (
            *(f"{root}/{tmp_path}/beside.wav", f"{root}/../beside.wav", f"{root}/{task_id}/../../beside.wav"),
            *(f"{root}/{task_id}1/other.wav", f"{root}/{task_id}/../{task_id}1/other.wav", f"{root}/top.wav"),
            *(f"{root}/{task_id}/deep/er.wav", f"{root}/{task_id}/{tmp_path}/beside.wav", f"{root}/{task_id}/"),
        ):
            assert not await heard(url), url


async def test_a_download_that_fails_is_tried_again(sites: Sites, tmp_path: Path) -> None:
    kinds = ("truncated", "status_403", "status_500", "empty", "reset")
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}")
    site.sim.set_faults(*(Fault(target="recording", kind=kind, count=4) for kind in kinds))
    task_id, result = await campaign(site)
    assert result["recordings"] == 12
    assert_archived(site, task_id, f"file://{tmp_path}")
    assert site.stats()["calls"]["recording"] == {**dict.fromkeys(kinds, 4), "ok": 12}


@pytest.mark.long
async def test_what_cannot_be_fetched_holds_nothing_up(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "FAILED_TRIES", 0)
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}")
    site.sim.set_faults(Fault(target="recording", kind="truncated"))
    task_id, result = await campaign(site, 6)
    assert (result["outcome"], result["recordings"], result["recordings_missing"]) == ("complete", 0, 6)
    assert site.task(task_id)["task_type"] == 4
    assert files(tmp_path) == []
    retries = site.sql("SELECT * FROM call_retries WHERE step = 'recording'")
    assert {retry["error_code"] for retry in retries} == {"Recording GET: Truncated"}


async def test_a_full_archive_is_not_written_to_again_and_again(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "BATCH", 3)
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}")
    task_id = old_campaign(site, 30)
    put = Archive._commit

    def fail(archive: Archive, spool: object, rest: bytes, size: int, name: str) -> None:
        if name.startswith(".probe"):
            return put(archive, spool, rest, size, name)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Archive, "_commit", fail)
    saved = await save_recordings(site, task_id)
    assert (saved.saved, saved.missing, saved.failed_calls) == (0, 30, 30)
    assert saved.error == "RecordingArchive write: ENOSPC"
    assert 5 <= served(site) < 10
    assert len(site.sql("SELECT * FROM call_retries WHERE retry_at > since")) == 30


async def test_what_a_crash_left_in_the_archive_is_not_fetched_again(sites: Sites, tmp_path: Path) -> None:
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}")
    task_id = old_campaign(site)
    assert (await save_recordings(site, task_id)).saved == 12
    # As if every worker had died between the archive and the database.
    site.sql("UPDATE leads_task_list SET recording_url = NULL")
    before = served(site), site.stats()["calls"]["DownloadRecording"]
    async with site.calls() as calls:
        await calls.query_task_execution(task_id, skip_recording=False)
    assert_archived(site, task_id, f"file://{tmp_path}")
    assert (served(site), site.stats()["calls"]["DownloadRecording"]) == before == (12, {"ok": 12})


async def test_audio_that_is_too_much_for_one_piece_is_left_to_the_next(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings_module, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(finding, "BATCH", 4)
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}")
    task_id = old_campaign(site)
    for _ in range(3):
        saved = await save_recordings(site, task_id)
        assert (saved.saved, saved.missing, saved.failed_calls) == (4, 0, 0)
    assert_archived(site, task_id, f"file://{tmp_path}")
    assert not site.sql("SELECT * FROM call_retries")


async def test_without_an_archive_a_piece_is_a_few_statements(sites: Sites) -> None:
    site = await sites(CALLS)
    task_id = old_campaign(site, 60)
    before = site.questions()
    assert (await save_recordings(site, task_id)).saved == 60
    assert site.questions() - before < 30, "connections and the rate limit included"
    assert all(row["recording_url"].startswith("http://") for row in site.rows(task_id))


# --- older campaigns, retention ---------------------------------------------------------------------------------------


async def test_older_campaigns_are_archived_on_request(sites: Sites, tmp_path: Path) -> None:
    site = await sites(CALLS)
    task_id, _ = old_campaign(site), old_campaign(site)
    await save_recordings(site, task_id)
    assert all(row["recording_url"].startswith("http://") for row in site.rows(task_id))
    site.sql("UPDATE leads_task_list SET recording_url = '' WHERE task_id = %s LIMIT 3", task_id)
    code, _, message = await run_command(site, "archive")
    assert (code, message) == (2, "starter: settings: RECORDING_ARCHIVE is not set: there is no archive\n")

    site.environment["RECORDING_ARCHIVE"] = f"file://{tmp_path}"
    code, found, _ = await run_command(site, "archive", "--dry-run", "--task", str(task_id))
    assert (code, found["calls"], found["vendor_urls"], found["archived"]) == (0, 12, 9, 0)
    assert served(site) == 0
    # Cut short, and finished by the same again.
    site.sim.set_faults(Fault(target="recording", kind="status_500", count=5))
    code, found, message = await run_command(site, "archive", "--task", str(task_id))
    assert (code, found["archived"], found["failed"]) == (1, 7, 5)
    assert "5 recordings could not be archived (Recording GET: Http500)" in message
    code, found, _ = await run_command(site, "archive", "--task", str(task_id))
    assert (code, found["calls"], found["archived"]) == (0, 5, 5)
    assert_archived(site, task_id, f"file://{tmp_path}")
    code, found, _ = await run_command(site, "archive")
    assert (code, found["calls"], found["archived"]) == (0, 12, 12), "the other task's"
    assert served(site) == 24
    code, found, _ = await run_command(site, "archive")
    assert (code, found["calls"], found["archived"]) == (0, 0, 0)
    code, _, message = await run_command(site, "archive", "--task", "4711")
    assert (code, message) == (1, "starter: call task 4711 does not exist\n")


async def test_an_archive_command_stops_where_everything_fails(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_archive, "ROWS", 5)
    monkeypatch.setattr(recording_archive, "HOPELESS", 5)
    site = await sites(CALLS)
    old_campaign(site)
    site.environment["RECORDING_ARCHIVE"] = f"file://{tmp_path}"
    site.sim.set_faults(Fault(target="recording", kind="status_500"))
    code, _, message = await run_command(site, "archive")
    assert code == 1 and "Recording GET: Http500" in message
    assert site.stats()["calls"]["recording"] == {"status_500": 5}


async def test_recordings_are_kept_for_some_days_after_the_call(sites: Sites, tmp_path: Path) -> None:
    root = f"file://{tmp_path}/archive"
    site = await sites(CALLS, RECORDING_ARCHIVE=root, RECORDING_RETENTION_DAYS="30")
    task_id = old_campaign(site)
    await save_recordings(site, task_id)
    assert_archived(site, task_id, root)
    rows, now = site.rows(task_id), datetime.now(ZONE).replace(tzinfo=None)
    old, young = rows[:5], rows[5:]
    for row in old:
        site.sql("UPDATE leads_task_list SET updated_time = %s WHERE id = %s", now - timedelta(days=31), row["id"])
    site.sql("UPDATE leads_task_list SET updated_time = %s WHERE id = %s", now - timedelta(days=29), young[0]["id"])
    fs, path = fsspec.core.url_to_fs(root)
    for name in (f"{task_id}/nobody-knows.wav", "7/of-a-deleted-task.wav", "mine/notes.txt"):
        fs.makedirs(f"{path}/{name}".rsplit("/", 1)[0], exist_ok=True)
        fs.pipe(f"{path}/{name}", b"....")
        if name.startswith("7/"):
            os.utime(f"{path}/{name}", (0, 0))
    before = set(fs.find(path))

    code, found, _ = await run_command(site, "prune", "--dry-run")
    assert (code, found["days"], found["files"], found["rows"]) == (0, 30, 6, 5)
    assert site.rows(task_id) != rows and set(fs.find(path)) == before
    code, found, _ = await run_command(site, "prune")
    assert (code, found["files"], found["rows"]) == (0, 6, 5) and found["bytes"] > 5
    gone = {f"{path}{row['recording_url'].removeprefix(root)}" for row in old}
    assert before - set(fs.find(path)) == gone | {f"{path}/7/of-a-deleted-task.wav"}
    urls = [row["recording_url"] for row in site.rows(task_id)]
    assert urls == [""] * 5 + [row["recording_url"] for row in young]

    # Nothing brings them back, though the platform still has them.
    fetched = served(site)
    code, found, _ = await run_command(site, "archive")
    assert (code, found["calls"]) == (0, 0)
    async with site.calls() as calls:
        await calls.query_task_execution(task_id, skip_recording=False)
    site.sql("UPDATE call_tasks SET task_type = 3 WHERE id = %s", task_id)
    async with site.calls() as calls:
        review = await Tasks(calls.database, [], site.client).review_task(
            ReviewRequest(
                task_id=task_id,
                rows={step.name: 99 for step in STEPS},
                values={"unfinished": True, "conversation_grace": 600, "recording_grace": 600},
            )
        )
    assert (review.work.get(RECORDING.name), review.next_due) == (None, None)
    assert (await save_recordings(site, task_id)).missing == 0
    assert [row["recording_url"] for row in site.rows(task_id)] == urls and served(site) == fetched
    site.sql("UPDATE leads_task_list SET updated_time = %s WHERE id = %s", now - timedelta(days=29), young[0]["id"])
    code, found, _ = await run_command(site, "prune", "--days", "28")
    assert (code, found["files"], found["rows"]) == (0, 1, 1)


async def test_a_prune_that_was_cut_short_is_finished_by_the_next(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}")
    task_id = old_campaign(site, 4)
    await save_recordings(site, task_id)
    site.sql("UPDATE leads_task_list SET updated_time = '2020-01-01'")

    async def fail(archive: Archive, names: object) -> None:
        raise PassingError("RecordingArchive", "delete", "EIO")

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "delete", fail)
        code, _, message = await run_command(site, "prune", "--days", "30")
    assert (code, message) == (1, "starter: RecordingArchive delete: EIO\n")
    assert not any(row["recording_url"] for row in site.rows(task_id)), "a link never leads nowhere"
    code, found, _ = await run_command(site, "prune", "--days", "30")
    assert (code, found["files"], found["rows"]) == (0, 4, 0)
    assert not (tmp_path / str(task_id)).exists()
    code, _, message = await run_command(site, "prune")
    assert (code, message) == (2, "starter: settings: give --days, or set RECORDING_RETENTION_DAYS\n")


async def test_a_worker_with_an_unwritable_archive_says_so_and_ends(sites: Sites, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}/file/archive")
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "worker.py", "--queue", "outbound-bot"),
        cwd=PROJECT,
        env={**os.environ, **site.environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, message = await worker.communicate()
    lines = [line for line in message.decode().splitlines() if " INFO " not in line]
    assert (worker.returncode, lines) == (
        2,
        ["worker: settings: RECORDING_ARCHIVE: nothing can be written there (ENOTDIR)"],
    )


async def test_the_command_line_knows_the_commands(sites: Sites, tmp_path: Path) -> None:
    site = await sites(CALLS, RECORDING_ARCHIVE=f"file://{tmp_path}")
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "starter.py", "recordings", "archive", "--json"),
        cwd=PROJECT,
        env={**os.environ, **site.environment},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await starter.communicate()
    assert (starter.returncode, json.loads(output)["calls"]) == (0, 0)
