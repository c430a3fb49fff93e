"""The simulated platform over real HTTP, through the vendor's own SDK: signature, limits, answers."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alibabacloud_outboundbot20191226 import models
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException, ThrottlingException

from simulators import (
    INSTANCE_ID,
    Contact,
    SimulatorOptions,
    running_in_thread,
)
from simulators.world import World
from tests.simulator_site import SimulatorSite, check_job, http, refused, signed


@pytest.fixture
def options() -> SimulatorOptions:
    return SimulatorOptions(calls_over=True)


@pytest.fixture
def site(options: SimulatorOptions) -> Iterator[SimulatorSite]:
    with running_in_thread(options) as simulators:
        yield SimulatorSite(simulators)


def with_options(**fields: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("options", [SimulatorOptions(**fields)], ids=[""])


# Signature


GROUPS_QUERY = {"InstanceId": INSTANCE_ID, "PageNumber": "1", "PageSize": "10", "SearchText": "甲 乙~*+&="}


def test_signature_of_the_sdk_is_accepted_and_any_change_to_the_request_is_not(site: SimulatorSite) -> None:
    url, headers = signed(site, GROUPS_QUERY)
    assert http.post(url, headers=headers).status_code == 200
    url, headers = signed(site, GROUPS_QUERY)
    for name, value in (
        ("x-acs-action", "DescribeJobGroup"),
        ("x-acs-signature-nonce", "another"),
        ("Authorization", headers["Authorization"][:-1] + ("0" if headers["Authorization"][-1] != "0" else "1")),
    ):
        answer = http.post(url, headers={**headers, name: value})
        assert (answer.status_code, answer.json()["Code"]) == (400, "SignatureDoesNotMatch"), name
    answer = http.post(url.replace("PageSize=10", "PageSize=11"), headers=headers)
    assert answer.json()["Code"] == "SignatureDoesNotMatch"
    assert http.post(url, headers=headers).status_code == 200  # untouched, it is still good


def test_a_request_encoded_otherwise_is_judged_by_its_meaning(site: SimulatorSite) -> None:
    url, headers = signed(site, GROUPS_QUERY)
    recoded = url.replace("PageSize", "%50ageSize").replace("+", "%20", 1)
    assert recoded != url
    assert http.post(recoded, headers=headers).status_code == 200


def test_old_dates_used_nonces_foreign_keys_and_missing_headers_are_refused(site: SimulatorSite) -> None:
    url, headers = signed(site, GROUPS_QUERY, x_acs_date="2020-01-01T00:00:00Z")
    assert http.post(url, headers=headers).json()["Code"] == "InvalidTimeStamp.Expired"
    url, headers = signed(site, GROUPS_QUERY)
    codes = [http.post(url, headers=headers).json()["Code"] for _ in range(2)]
    assert codes == ["OK", "SignatureNonceUsed"]
    url, headers = signed(site, GROUPS_QUERY)
    del headers["x-acs-date"]
    assert http.post(url, headers=headers).status_code == 400
    for client, status, code in (
        (site.sdk(key_id="nobody"), 404, "InvalidAccessKeyId.NotFound"),
        (site.sdk(secret="wrong"), 400, "SignatureDoesNotMatch"),
    ):
        request = models.ListJobGroupsRequest(instance_id=INSTANCE_ID, page_number=1, page_size=10)
        error = refused(lambda client=client, request=request: client.list_job_groups(request))  # type: ignore[misc]
        assert (error.status_code, error.code) == (status, code)


# Limits and errors


def test_limits_and_unknown_things_are_refused_as_by_the_platform(site: SimulatorSite) -> None:
    group = site.group()
    ids = site.assign(group, 99)
    assert len(ids) == len(set(ids)) == 99
    assert len(site.list_jobs(ids).jobs) == 99
    cases: list[tuple[Callable[[], Any], int, str]] = [
        (lambda: site.list_jobs([*ids, ids[0]]), 400, "InvalidParameter"),
        (lambda: site.assign(group, 100), 400, "InvalidParameter"),
        (lambda: site.query(group, size=101), 400, "InvalidParameter"),
        (lambda: site.query(group, page=0), 400, "InvalidParameter"),
        (lambda: site.query(group, job_status_filter="Nonsense"), 400, "InvalidParameter"),
        (lambda: site.query("nowhere"), 404, "NotExist.JobGroup"),
        (lambda: site.list_jobs(["nobody"]), 404, "NotExist.Job"),
        (lambda: site.recording("nothing"), 404, "NotExist.Task"),
        (lambda: site.client.list_jobs(models.ListJobsRequest(instance_id="x", job_id=ids)), 404, "NotExist.Instance"),
        (
            lambda: site.client.create_job_group(models.CreateJobGroupRequest(instance_id=INSTANCE_ID)),
            400,
            "InvalidParameter",
        ),
    ]
    for call, status, code in cases:
        error = refused(call)
        assert (error.status_code, error.code) == (status, code)
        assert error.request_id


def test_batches_of_long_contacts_fit_into_a_url(site: SimulatorSite) -> None:
    contact = {"phoneNumber": "13900000001", "name": "长" * 300, "referenceId": "r"}
    jobs = [json.dumps({"contacts": [{**contact, "referenceId": f"r{n}"}]}, ensure_ascii=False) for n in range(99)]
    request = models.AssignJobsRequest(instance_id=INSTANCE_ID, job_group_id=site.group(), jobs_json=jobs)
    assert len(site.client.assign_jobs(request).body.jobs_id) == 99


@pytest.mark.parametrize("wait", [0, 1500])
def test_calls_above_the_rate_are_throttled_with_or_without_a_wait(wait: int) -> None:
    with running_in_thread(SimulatorOptions(qps=5, retry_after_ms=wait)) as simulators:
        site = SimulatorSite(simulators)
        request = models.ListJobGroupsRequest(instance_id=INSTANCE_ID, page_number=1, page_size=1)
        thrown = []
        for _ in range(12):
            try:
                site.client.list_job_groups(request)
            except AlibabaCloudException as error:
                thrown.append(error)
        assert 4 <= len(thrown) <= 7
        assert all(error.code == "Throttling.User" for error in thrown)
        assert [isinstance(error, ThrottlingException) for error in thrown] == [bool(wait)] * len(thrown)
        assert not wait or thrown[0].retry_after == wait
        stats = site.control("stats")
        assert stats["platform_peak_1s"] == stats["platform_calls"] == 12
        assert stats["calls"]["ListJobGroups"] == {"ok": 12 - len(thrown), "Throttling.User": len(thrown)}


# Answers


def test_answers_say_what_the_truth_says(site: SimulatorSite) -> None:
    group = site.group()
    for first in range(0, 297, 99):
        site.assign(group, 99, first)
    truth = {job["job_id"]: job for job in site.truth(group)}
    pages = [site.query(group, page).jobs for page in (1, 2, 3)]
    rows = [row for page in pages for row in page.list]
    assert [page.row_count for page in pages] == [297] * 3 and pages[0].page_count == 3
    assert {row.id for row in rows} == truth.keys()
    for row in rows:
        assert row.status == truth[row.id]["status"]
        assert row.latest_task.contact.reference_id == truth[row.id]["reference_id"]
        assert row.latest_task.contact.phone_number == truth[row.id]["phone"]
    seen: dict[str, Any] = {"several": 0, "trailing": 0, "statuses": set()}
    for start in range(0, 297, 99):
        for job in site.list_jobs([row.id for row in rows[start : start + 99]]).jobs:
            check_job(job, truth[job.job_id], seen)
    assert seen["several"] > 30 and seen["trailing"] > 0
    assert {"NoAnswer", "Busy", "SucceededFinish"} <= seen["statuses"]
    answered = sum(job["status"] == "Succeeded" for job in truth.values())
    assert 0.3 < answered / 297 < 0.5
    progress = site.progress(group)
    assert (progress["TotalJobs"], progress["TotalCompleted"], progress["Failed"]) == (297, 297, 297 - answered)


def test_groups_are_found_by_name_and_paged(site: SimulatorSite) -> None:
    made = {site.group(f"call-task-{number}") for number in range(12)}
    request = models.ListJobGroupsRequest(
        instance_id=INSTANCE_ID, page_number=2, page_size=10, search_text="call-task-"
    )
    answer = site.client.list_job_groups(request).body.job_groups
    assert answer.total_count == 12 and len(answer.list) == 2
    assert {group.job_group_id for group in answer.list} < made
    request.search_text, request.page_number = "call-task-11", 1
    assert [group.job_group_name for group in site.client.list_job_groups(request).body.job_groups.list] == [
        "call-task-11"
    ]


def test_a_listing_obeys_its_filter(site: SimulatorSite) -> None:
    group = site.group()
    site.assign(group)
    everything = site.query(group).jobs.list
    succeeded = {row.id for row in everything if row.status == "Succeeded"}
    answer = site.query(group, job_status_filter="Succeeded").jobs
    assert {row.id for row in answer.list} == succeeded and answer.row_count == len(succeeded)


# Who says no


def test_who_is_named_refuses_and_the_record_says_so_once_the_call_is_over(site: SimulatorSite) -> None:
    phones = [f"139{number:08}" for number in range(0, 99, 3)]
    assert site.control("courses", {"course": "refuses-politely", "phones": phones}) == {"phones": 33}
    unknown = http.post(f"{site.url}/_sim/courses", json={"course": "nonsense", "phones": phones})
    assert unknown.status_code == 400
    group = site.group()
    ids = site.assign(group)
    truth = site.truth(group)
    named = [job for job in truth if job["phone"] in phones]
    assert {(job["status"], job["course"]) for job in named} == {("Succeeded", "refuses-politely")}
    refused_here = {job["phone"]: job for job in truth if job["do_not_call"]}
    found = site.control("refusals")
    assert phones == [one["phone"] for one in found if one["sentence"] == "麻烦以后别再打给我了，辛苦。"]
    assert {one["phone"] for one in found} == refused_here.keys() and {one["job_id"] for one in found} <= set(ids)
    for one in found:
        job = refused_here[one["phone"]]
        assert (one["reference_id"], one["sentence"], one["group"]) == (job["reference_id"], job["do_not_call"], group)
        assert one["sentence"] in [turn["text"] for turn in job["transcript"] if turn["speaker"] == "Contact"]
        assert any(attempt["end"] == one["at"] for attempt in job["attempts"])


@with_options(seconds_per_call=40, concurrency=1, answer_rate=1, retry_rate=0, refusal_rate=1)
def test_nobody_has_refused_before_the_call_is_over(site: SimulatorSite) -> None:
    group = site.group()
    site.assign(group, 3)
    assert site.control("refusals") == []
    site.control("clock", {"advance": 30})
    assert site.control("refusals") == []
    site.control("clock", {"advance": 30})
    assert [one["phone"] for one in site.control("refusals")] == ["13900000000"]
    site.control("clock", {"advance": 300})
    assert len(site.control("refusals")) == 3


@pytest.mark.parametrize("rate", [0, 0.05, 1])
def test_so_many_refuse_as_asked_for_and_nobody_else(rate: float) -> None:
    world = World(SimulatorOptions(calls_over=True, answer_rate=1, refusal_rate=rate))
    group = world.add_group("g", [Contact(phone=f"139{n:08}", reference=f"r{n}") for n in range(3000)])
    truth = world.truth(group)
    share = sum(bool(job["do_not_call"]) for job in truth) / len(truth)
    assert abs(share - rate) < 0.015
    assert len({job["course"] for job in truth if job["do_not_call"]}) == (5 if rate else 0)
    assert len({job["course"] for job in truth}) > (40 if rate < 1 else 4)
