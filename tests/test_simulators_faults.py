"""Faults of the simulated platform, as the vendor's SDK shows them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alibabacloud_outboundbot20191226 import models
from alibabacloud_outboundbot20191226.client import Client
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException, ThrottlingException
from alibabacloud_tea_openapi.utils_models import Config

from simulators import (
    ACCESS_KEY_ID,
    ACCESS_KEY_SECRET,
    INSTANCE_ID,
    Fault,
    SimulatorOptions,
    running_in_thread,
)
from simulators.calls import FINAL
from simulators.faults import PLATFORM_KINDS
from tests.simulator_site import SimulatorSite, http, refused, signed


@pytest.fixture
def options() -> SimulatorOptions:
    return SimulatorOptions(calls_over=True)


@pytest.fixture
def site(options: SimulatorOptions) -> Iterator[SimulatorSite]:
    with running_in_thread(options) as simulators:
        yield SimulatorSite(simulators)


def with_options(**fields: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("options", [SimulatorOptions(**fields)], ids=[""])


def outcome(call: Callable[[], Any]) -> str:
    """What a client makes of an answer: the error's class and code, "unsuccessful", "unreadable" or "ok"."""
    try:
        body = call().body
    except AlibabaCloudException as error:
        return f"{type(error).__name__} {error.code}"
    except Exception as error:
        return type(error).__name__
    if body is None:
        return "unreadable"
    return "ok" if body.success else f"unsuccessful {body.code}"


BROKEN = {
    "status_500": {"ServerException InternalError"},
    "status_503": {"ServerException ServiceUnavailable"},
    "html": {"UnretryableException"},
    "empty": {"UnretryableException"},
    "reset": {"UnretryableException"},
    "lost_answer": {"UnretryableException"},
    "success_false": {"unsuccessful InternalError"},
    "wrong_shape": {"unreadable", "ok", "AttributeError", "TypeError"},
    "throttle": {"ThrottlingException Throttling.User"},
    "throttle_plain": {"ClientException Throttling.User"},
    "permanent": {"ClientException InvalidParameter"},
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_broken_answers_of_the_platform(site: SimulatorSite, kind: str) -> None:
    group = site.group()
    ids = site.assign(group, 5)
    site.control("faults", [{"target": "ListJobs", "kind": kind, "count": 3, "seconds": 2}])
    request = models.ListJobsRequest(instance_id=INSTANCE_ID, job_id=ids)
    outcomes = [outcome(lambda: site.client.list_jobs(request)) for _ in range(4)]
    assert set(outcomes[:3]) <= BROKEN[kind] and outcomes[3] == "ok", outcomes
    assert site.query(group).jobs.row_count == 5  # other actions are spared
    stats = site.control("stats")
    assert stats["calls"]["ListJobs"] == {kind: 3, "ok": 1} and stats["faults"] == {f"ListJobs:{kind}": 3}


def test_wrong_shapes_cannot_be_read_as_jobs(site: SimulatorSite) -> None:
    ids = site.assign(site.group(), 5)
    site.control("faults", [{"target": "*", "kind": "wrong_shape"}])
    for _ in range(6):
        url, headers = signed(site, {"InstanceId": INSTANCE_ID, "JobId.1": ids[0]}, x_acs_action="ListJobs")
        jobs = http.post(url, headers=headers).json()["Jobs"]
        assert not (isinstance(jobs, list) and all(isinstance(job, dict) for job in jobs))


def test_throttling_tells_its_wait(site: SimulatorSite) -> None:
    site.control("faults", [{"target": "*", "kind": "throttle", "seconds": 1.5}])
    error = refused(site.group)
    assert isinstance(error, ThrottlingException) and error.retry_after == 1500


def test_faults_strike_at_their_rate_and_alike_by_seed() -> None:
    def struck(seed: int) -> list[bool]:
        with running_in_thread(SimulatorOptions(seed=seed, calls_over=True)) as simulators:
            site = SimulatorSite(simulators)
            ids = site.assign(site.group(), 1)
            site.control("faults", [{"target": "*", "kind": "status_500", "rate": 0.3}])
            request = models.ListJobsRequest(instance_id=INSTANCE_ID, job_id=ids)
            return [outcome(lambda: site.client.list_jobs(request)) != "ok" for _ in range(100)]

    first = struck(3)
    assert 15 < sum(first) < 45
    assert first == struck(3) != struck(4)


def test_a_hanging_platform_outlasts_the_clients_patience(site: SimulatorSite) -> None:
    site.control("faults", [{"target": "*", "kind": "hang", "seconds": 20}])
    began = time.monotonic()
    request = models.ListJobGroupsRequest(instance_id=INSTANCE_ID, page_number=1, page_size=1)
    impatient = Client(
        Config(
            access_key_id=ACCESS_KEY_ID,
            access_key_secret=ACCESS_KEY_SECRET,
            endpoint=site.host,
            protocol="http",
            read_timeout=200,
        )
    )
    assert outcome(lambda: impatient.list_job_groups(request)) == "UnretryableException"
    assert 0.15 < time.monotonic() - began < 2


def test_what_was_accepted_stays_although_its_answer_is_lost(site: SimulatorSite) -> None:
    group = site.group()
    site.control("faults", [{"target": "AssignJobs", "kind": "lost_answer", "count": 1}])
    with pytest.raises(Exception, match=r".*"):
        site.assign(group, 10)
    assert site.query(group).jobs.row_count == 10
    site.control("faults", [{"target": "*", "kind": "lost_late", "count": 1, "seconds": 30}])
    with pytest.raises(Exception, match=r".*"):
        site.assign(group, 10, first=10)
    assert site.query(group).jobs.row_count == 10
    site.control("clock", {"advance": 31})
    assert site.query(group).jobs.row_count == 20
    site.control("faults", [{"target": "CreateJobGroup", "kind": "lost_late", "count": 1, "seconds": 30}])
    with pytest.raises(Exception, match=r".*"):
        site.group("lost")
    request = models.ListJobGroupsRequest(instance_id=INSTANCE_ID, page_number=1, page_size=10, search_text="lost")
    assert site.client.list_job_groups(request).body.job_groups.total_count == 0
    site.control("clock", {"advance": 31})
    assert site.client.list_job_groups(request).body.job_groups.total_count == 1


def test_a_batch_is_accepted_in_part(site: SimulatorSite) -> None:
    group = site.group()
    site.control("faults", [{"target": "AssignJobs", "kind": "partial", "count": 1}])
    assert len(site.assign(group, 99)) == 66 == site.query(group).jobs.row_count


def test_listings_that_shift_leave_out_and_vanish(site: SimulatorSite) -> None:
    group = site.group()
    ids = site.assign(group, 99)
    site.assign(group, 99, first=99)
    truth = [row.id for page in (1, 2) for row in site.query(group, page).jobs.list]

    def listed() -> list[str]:
        return [row.id for page in (1, 2) for row in site.query(group, page).jobs.list]

    site.simulators.set_faults(Fault(target="*", kind="shuffle", count=1))
    shifted = listed()
    assert len(set(shifted)) < len(shifted) and set(shifted) < set(truth)
    site.simulators.set_faults(Fault(target="*", kind="missing"))
    assert set(listed()) < set(truth) and len(site.list_jobs(ids).jobs) < 99
    site.simulators.set_faults(Fault(target="QueryJobsWithResult", kind="vanish", count=1, seconds=60))
    assert len(set(listed())) < len(truth)
    page = site.query(group).jobs
    assert page.row_count < 198 and len(site.list_jobs(ids).jobs) < 99
    site.control("clock", {"advance": 61})
    assert listed() == truth and len(site.list_jobs(ids).jobs) == 99


@with_options(concurrency=99)
def test_stale_and_changing_statuses(site: SimulatorSite) -> None:
    group = site.group()
    ids = site.assign(group)
    site.control("clock", {"advance": 1000})
    assert {row.status for row in site.query(group).jobs.list} == {"Succeeded", "Failed"}
    site.simulators.set_faults(Fault(target="*", kind="stale", seconds=995))
    assert {row.status for row in site.query(group).jobs.list} <= {"Scheduling", "Executing"}
    assert not any(job.status in FINAL for job in site.list_jobs(ids).jobs)
    site.simulators.set_faults(Fault(target="*", kind="flip"))
    truth = {job["job_id"]: job["status"] for job in site.truth(group)}
    assert {job.job_id: job.status for job in site.list_jobs(ids).jobs} == truth  # a final status has to be seen first
    changed = {job.job_id: job.status for job in site.list_jobs(ids).jobs}
    assert all(changed[job_id] != status for job_id, status in truth.items())
    site.simulators.set_faults()
    assert {job.job_id: job.status for job in site.list_jobs(ids).jobs} == truth
    assert all(job["flips"] == 1 for job in site.truth(group))


def test_every_kind_of_fault_can_strike_everything_without_stopping_the_simulators(site: SimulatorSite) -> None:
    group = site.group()
    ids = site.assign(group, 5)
    for kind in sorted(PLATFORM_KINDS):
        site.control("faults", [{"target": "*", "kind": kind, "seconds": 0.05}])
        outcome(lambda: site.client.list_jobs(models.ListJobsRequest(instance_id=INSTANCE_ID, job_id=ids)))
        request = models.DescribeJobGroupRequest(instance_id=INSTANCE_ID, job_group_id=group)
        outcome(lambda request=request: site.client.describe_job_group(request))  # type: ignore[misc]
    site.control("faults", [])
    assert len(site.list_jobs(ids).jobs) == 5 or site.control("clock", {"advance": 1})
    assert len(site.list_jobs(ids).jobs) == 5
