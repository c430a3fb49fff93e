"""The simulated world: time, recordings, groups that others made, truth and statistics."""

import io
import json
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from alibabacloud_outboundbot20191226 import models

from simulators import (
    INSTANCE_ID,
    Contact,
    SimulatorOptions,
    running_in_thread,
)
from simulators.calls import FINAL, Job
from simulators.world import World
from tests.simulator_site import SimulatorSite, check_job, http, refused


@pytest.fixture
def options() -> SimulatorOptions:
    return SimulatorOptions(calls_over=True)


@pytest.fixture
def site(options: SimulatorOptions) -> Iterator[SimulatorSite]:
    with running_in_thread(options) as simulators:
        yield SimulatorSite(simulators)


def with_options(**fields: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("options", [SimulatorOptions(**fields)], ids=[""])


def test_the_same_seed_gives_the_same_calls_and_another_seed_others() -> None:
    def outcomes(seed: int) -> list[Any]:
        world = World(SimulatorOptions(seed=seed, calls_over=True, cancelled_rate=0.1))
        group = world.add_group("g", [Contact(phone=f"139{n:08}", reference=f"r{n}") for n in range(300)])
        keys = ("status", "task_id", "calling_number", "transcript", "course")
        return [[job[key] for key in keys] + [a["status"] for a in job["attempts"]] for job in world.truth(group)]

    assert outcomes(7) == outcomes(7)
    assert outcomes(7) != outcomes(8)
    assert {row[0] for row in outcomes(7)} == FINAL


@with_options(concurrency=10, seconds_per_call=40, retry_rate=0.3)
def test_calls_progress_with_the_clock(site: SimulatorSite, options: SimulatorOptions) -> None:
    group = site.group()
    ids = site.assign(group)
    assert site.progress(group)["Scheduling"] == 99
    site.control("clock", {"advance": 20})
    progress = site.progress(group)
    assert 5 <= progress["Executing"] <= 10 and progress["TotalJobs"] == 99
    executing = site.query(group, job_status_filter="Executing").jobs.list
    assert executing and all(row.latest_task.status == "Executing" for row in executing)
    assert not any(
        task.conversation for job in site.list_jobs([row.id for row in executing]).jobs for task in job.tasks
    )
    done, steps = -1, 0
    while progress["TotalCompleted"] < 99:
        steps += 1
        site.control("clock", {"advance": 60})
        progress = site.progress(group)
        assert (
            sum(progress[key] for key in ("Scheduling", "Executing", "Failed", "TotalCompleted")) - progress["Failed"]
            == 99
        )
        assert progress["Executing"] <= 25 and progress["TotalCompleted"] >= done
        done = progress["TotalCompleted"]
    assert 4 < steps < 30
    truth = {job["job_id"]: job for job in site.truth(group)}
    for job in site.list_jobs(ids).jobs:
        check_job(job, truth[job.job_id], {"several": 0, "trailing": 0, "statuses": set()})


def test_what_is_listed_by_status_is_what_each_job_says_at_every_moment() -> None:
    world = World(SimulatorOptions(concurrency=7, late_rate=0.1, late_lag=200, listing_lag=5, cancelled_rate=0.1))
    group = world.add_group("g", [Contact(phone=f"139{n:08}", reference=f"r{n}") for n in range(200)], over=False)
    for step in range(60):
        world.clock.advance(23.7)
        if step in (5, 20):
            world.change(group, group.jobs[::3], Job.suspend)
        if step in (12, 30):
            world.change(group, group.jobs, Job.resume)
        if step == 40:
            world.change(group, group.jobs[150:], Job.cancel)
        now = world.clock.now()
        group.update(now)
        listed = [job for job in group.jobs if job.visible_at <= now]
        assert {job.id for job in group.listed} == {job.id for job in listed}
        for status, jobs in group.by_status.items():
            assert set(jobs) == {job.id for job in listed if job.status_at(now) == status}, (step, status)
    assert all(job.status in FINAL for job in group.jobs)


@with_options(concurrency=5)
def test_suspend_resume_cancel(site: SimulatorSite) -> None:
    group = site.group()
    site.assign(group)
    site.control("clock", {"advance": 50})
    everything = {"instance_id": INSTANCE_ID, "all": True, "job_group_id": group}
    site.client.suspend_jobs(models.SuspendJobsRequest(**everything))
    paused = site.progress(group)["Paused"]
    assert paused > 80
    site.control("clock", {"advance": 3600})
    assert site.progress(group)["Paused"] >= paused
    assert site.progress(group)["Executing"] == 0
    site.client.resume_jobs(models.ResumeJobsRequest(**everything))
    site.control("clock", {"advance": 60})
    progress = site.progress(group)
    assert progress["Paused"] == 0 and progress["Executing"] > 0 and progress["Scheduling"] > 40
    site.client.cancel_jobs(models.CancelJobsRequest(**everything))
    site.control("clock", {"advance": 120})
    progress = site.progress(group)
    assert progress["Cancelled"] > 40 and progress["Cancelled"] + progress["TotalCompleted"] == 99
    cancelled = [row.id for row in site.query(group, job_status_filter="Cancelled").jobs.list]
    assert all(job.status == "Cancelled" for job in site.list_jobs(cancelled).jobs)


@with_options(
    calls_over=True,
    answer_rate=1.0,
    transcript_lag=60,
    transcript_lag_share=0.5,
    recording_lag=100,
    recording_never=0.3,
)
def test_transcripts_and_recordings_lag(site: SimulatorSite) -> None:
    group = site.group()
    ids = site.assign(group)

    def spoken() -> int:
        return sum(any(task.conversation for task in job.tasks) for job in site.list_jobs(ids).jobs)

    assert 30 < spoken() < 70
    tasks = [job["task_id"] for job in site.truth(group)]
    forms = {recording_form(site.recording(task)) for task in tasks}
    assert forms == {"refused", "null", "empty"}
    site.control("clock", {"advance": 61})
    assert spoken() == 99
    site.control("clock", {"advance": 40})
    found = [recording_form(site.recording(task)) == "url" for task in tasks]
    assert (
        found
        == [job["recording"] for job in site.truth(group)]
        == [job["recording_ready"] for job in site.truth(group)]
    )
    assert 50 < sum(found) < 85


def recording_form(body: Any) -> str:
    if not body.success:
        return "refused"
    if body.download_params is None:
        return "null"
    return "url" if body.download_params.signature_url else "empty"


@with_options(calls_over=True, listing_lag=10, late_rate=0.1, late_lag=500)
def test_jobs_are_listed_late(site: SimulatorSite) -> None:
    group = site.group()
    ids = site.assign(group)
    assert site.query(group).jobs.row_count == 0 and site.progress(group)["TotalJobs"] == 0
    assert site.list_jobs(ids).jobs == []
    site.control("clock", {"advance": 11})
    listed = site.query(group).jobs.row_count
    assert 80 < listed < 99 and len(site.list_jobs(ids).jobs) == listed
    site.control("clock", {"advance": 500})
    assert site.query(group).jobs.row_count == 99


def test_scaled_time_shows_real_times() -> None:
    with running_in_thread(SimulatorOptions(time_scale=36_000, concurrency=50)) as simulators:
        site = SimulatorSite(simulators)
        group = site.group()
        site.assign(group)
        deadline = time.monotonic() + 10
        while site.progress(group)["TotalCompleted"] < 99:
            assert time.monotonic() < deadline
        planned = [job["planed_time"] / 1000 for job in site.truth(group)]
        assert max(planned) <= time.time() and min(planned) > time.time() - 15


# Recordings


def test_a_recording_is_audio_until_its_url_expires(site: SimulatorSite) -> None:
    group = site.group()
    site.assign(group)
    task = next(job["task_id"] for job in site.truth(group) if job["status"] == "Succeeded")
    params = site.recording(task).download_params
    query = parse_qs(urlsplit(params.signature_url).query)
    assert abs(int(query["Expires"][0]) - time.time() - 3600) < 10
    answer = http.get(params.signature_url)
    assert answer.status_code == 200 and int(answer.headers["content-length"]) == len(answer.content) > 100
    with wave.open(io.BytesIO(answer.content)) as sound:
        assert sound.getnframes() > 0
    assert http.get(params.signature_url.replace("Expires=", "Expires=9")).status_code == 403
    site.control("clock", {"advance": 3700})
    assert http.get(params.signature_url).status_code == 403
    assert http.get(site.recording(task).download_params.signature_url).content == answer.content


def test_downloads_of_recordings_fail_on_request(site: SimulatorSite) -> None:
    group = site.group()
    site.assign(group)
    task = next(job["task_id"] for job in site.truth(group) if job["status"] == "Succeeded")
    url = site.recording(task).download_params.signature_url
    kinds = ["truncated", "reset", "status_403", "status_500", "empty", "hang"]
    site.control("faults", [{"target": "recording", "kind": kind, "count": 1, "seconds": 0} for kind in kinds])
    for kind in kinds:
        if kind in ("truncated", "reset", "hang"):
            with pytest.raises(httpx.TransportError):
                http.get(url)
        else:
            answer = http.get(url)
            assert answer.status_code == {"status_403": 403, "status_500": 500, "empty": 200}[kind]
            assert kind != "empty" or not answer.content
    assert http.get(url).status_code == 200
    assert site.control("stats")["calls"]["recording"] == dict.fromkeys([*kinds, "ok"], 1)


# Groups that others made, the truth, the statistics


def test_groups_of_others_are_preloaded(site: SimulatorSite) -> None:
    contacts = [
        {"phone": "13900000001", "reference": "task_5_lead_1"},
        {"phone": "13900000002", "course": "angry", "outcome": "Succeeded"},
        {"phone": "13900000002", "outcome": "Failed"},
        {
            "phone": "13900000003",
            "outcome": "Succeeded",
            "turns": [{"speaker": "Contact", "text": '100% "够" %d \U0001f600'}],
        },
    ]
    called_at = time.time() - 86_400
    made = site.control("groups", {"name": "old", "contacts": contacts, "called_at": called_at})
    truth = site.truth(made["id"])
    assert [job["reference_id"] for job in truth] == ["task_5_lead_1", "", "", ""]
    assert all(abs(job["planed_time"] / 1000 - called_at) < 600 for job in truth if job["task_id"])
    jobs = {job.job_id: job for job in site.list_jobs(made["jobs"]).jobs}
    assert jobs[made["jobs"][1]].status == "Succeeded" and truth[1]["course"] == "angry" and truth[1]["interest"] == 2
    assert jobs[made["jobs"][2]].status == "Failed"
    connected = [task for task in jobs[made["jobs"][3]].tasks if task.conversation]
    assert connected[0].conversation[0].script == contacts[3]["turns"][0]["text"]  # type: ignore[index]
    http.delete(f"{site.url}/_sim/groups/{made['id']}")
    assert refused(lambda: site.query(made["id"])).code == "NotExist.JobGroup"


def test_whoever_is_dialled_twice_is_counted(site: SimulatorSite) -> None:
    group = site.group()
    site.assign(group, 10)
    assert site.control("stats")["dialled_twice"] == []
    site.assign(group, 2, first=9)
    stats = site.control("stats?series=1")
    assert stats["dialled_twice"] == [{"group": group, "group_name": "call-task-1", "reference_id": "ref9", "dials": 2}]
    assert stats["contacts_assigned"] == 12 and stats["calls"]["AssignJobs"] == {"ok": 2}
    assert sum(stats["per_second"]["platform"]) == stats["platform_calls"] == 3
    assert stats["cpu_seconds"] > 0
    site.group()
    assert site.control("stats")["groups_of_one_name"] == ["call-task-1"]
    site.control("reset_stats", {})
    assert site.control("stats")["platform_calls"] == 0


def test_text_that_utf8_cannot_hold_passes_through_as_json_escapes(site: SimulatorSite) -> None:
    turns = [{"speaker": "Contact", "text": "\ud800\x00<b>'; DROP"}]
    contacts = [{"phone": "13900000001", "name": "\udfff", "reference": "\x00", "outcome": "Succeeded", "turns": turns}]
    body = json.dumps({"name": "odd", "contacts": contacts})
    made = http.post(f"{site.url}/_sim/groups", content=body).json()
    job = site.list_jobs(made["jobs"]).jobs[0]
    spoken = next(task.conversation for task in job.tasks if task.conversation)
    assert (job.reference_id, job.contacts[0].contact_name, spoken[0].script) == ("\x00", "\udfff", turns[0]["text"])
    assert site.query(made["id"]).jobs.list[0].latest_task.contact.name == "\udfff"
    assert site.truth(made["id"])[0]["transcript"] == turns


def test_other_transcripts_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "dialogues.jsonl"
    turns = [{"speaker": "Robot", "text": "您好"}, {"speaker": "Contact", "text": "问一下酒店"}]
    file.write_text(json.dumps({"id": "77", "turns": turns}, ensure_ascii=False) + "\n", encoding="utf-8")
    world = World(SimulatorOptions(dialogues=str(file), answer_rate=1, calls_over=True))
    group = world.add_group("g", [Contact(phone="13900000001")])
    assert world.truth(group)[0]["transcript"] == turns and world.truth(group)[0]["course"] == "77"


def test_control_refuses_what_it_cannot_use(site: SimulatorSite) -> None:
    for path, body in (
        ("faults", [{"target": "*", "kind": "nonsense"}]),
        ("faults", [{"target": "model", "kind": "stale"}]),
        ("faults", [{"target": "*", "kind": "empty", "rate": 2}]),
        ("clock", {"advance": -1}),
        ("model", {"down": "yes"}),
        ("groups", {"name": "x", "contacts": [{"nobody": 1}]}),
    ):
        assert http.post(f"{site.url}/_sim/{path}", json=body).status_code == 400, body
    assert http.get(f"{site.url}/_sim/nothing").status_code == 404


def test_the_command_says_when_it_is_ready_and_stops_cleanly() -> None:
    command = [sys.executable, "-m", "simulators", "--calls-over", "--answer-rate", "1", "--latency", "0,0.001"]
    command += ["--no-json-schema", "--retired-models", "qwen-old,qwen-older"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("simulators ready on http://127.0.0.1:")
        assert http.get(f"{line.split()[-1]}/_sim/stats").json()["jobs"] == 0
        model = http.post(f"{line.split()[-1]}/_sim/model", json={}).json()
        assert model == {"down": False, "json_schema": False, "retired": ["qwen-old", "qwen-older"]}
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait(10) == 0
