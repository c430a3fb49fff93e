"""Which job belongs to which lead (rule 3), whatever the platform lists, and when."""

from datetime import timedelta
from typing import Any

from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import assert_finished, assert_nothing_went_back
from tests.pipeline import QUICK, Site, Sites, phone, side_by_side


async def test_two_leads_with_one_phone_get_two_jobs(sites: Sites) -> None:
    site = await sites()
    site.add_leads(20)
    site.sql("UPDATE dcc_leads SET leads_user_phone = %s WHERE leads_id IN (3, 4, 11)", phone(1))
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id)
    assert result["called"] == 20
    assert_finished(site, task_id, result)
    jobs = {job["job_id"]: job for job in site.truth(task_id)}
    assert all(jobs[row["call_job_id"]]["reference_id"] == row["reference_id"] for row in site.rows(task_id))


async def test_an_old_task_is_matched_by_reference_then_by_the_old_form_then_by_phone(sites: Sites) -> None:
    site = await sites()
    rows: list[dict[str, Any]] = [
        {"leads_id": 1, "leads_phone": phone(1), "reference_id": "own-1"},
        {"leads_id": 2, "leads_phone": phone(2), "reference_id": ""},
        {"leads_id": 3, "leads_phone": phone(3), "reference_id": None},
        {"leads_id": 4, "leads_phone": phone(4), "reference_id": ""},
        {"leads_id": 5, "leads_phone": phone(1), "reference_id": None},
        {"leads_id": 6, "leads_phone": phone(1), "reference_id": "other-6"},
        {"leads_id": 7, "leads_phone": phone(7), "reference_id": "own-7", "call_job_id": ""},
        {"leads_id": 8, "leads_phone": phone(8), "reference_id": "own-8"},
        {"leads_id": 9, "leads_phone": None, "reference_id": None},
        {"leads_id": 10, "leads_phone": None, "reference_id": "own-10"},
    ]
    contacts = [
        Contact(phone=phone(1)),  # one of the two rows with this phone that no reference decides
        Contact(phone=phone(4)),
        Contact(phone=phone(99), reference="task_{task}_lead_3"),
        Contact(phone=phone(2), reference="task_{task}_lead_2"),
        Contact(phone=phone(2), reference="own-1"),
        Contact(phone=phone(1), reference="stranger"),
        Contact(phone=phone(77), reference="own-7"),
        Contact(phone=phone(7)),  # the phone of a row that its reference has served
        Contact(phone=phone(50), reference="foreign"),
        Contact(phone=phone(50), reference="task_999_lead_4"),
        Contact(phone=phone(51), reference="task_{task}_lead_400"),
    ]
    task_id = site.old_task(rows, contacts)
    jobs = [job["job_id"] for job in site.truth(task_id)]
    async with site.working():
        result = await site.run(task_id)
    found = {row["leads_id"]: row["call_job_id"] or None for row in site.rows(task_id)}
    wanted = {1: jobs[4], 2: jobs[3], 3: jobs[2], 4: jobs[1], 7: jobs[6], 8: None, 9: None, 10: None}
    assert {lead: found[lead] for lead in wanted} == wanted
    assert {found[5], found[6]} == {jobs[0], jobs[5]}
    statuses = {row["leads_id"]: row["call_status"] for row in site.rows(task_id)}
    assert (statuses[8], statuses[9], statuses[10]) == ("Failed", None, "Failed")
    assert (result["leads"], result["called"], result["unmatched"]) == (10, 7, 3)
    assert result["outcome"] == "complete"
    assert_finished(site, task_id, result)


async def test_a_row_keeps_the_job_that_it_has(sites: Sites) -> None:
    site = await sites()
    contacts = [Contact(phone=phone(number), reference=f"r{number}") for number in range(1, 5)]
    task_id = site.old_task([{"leads_id": 1, "leads_phone": phone(1), "reference_id": "r1"}], contacts)
    jobs = [job["job_id"] for job in site.truth(task_id)]
    # The rows' jobs are crossed; the second has the job that the reference of the third names.
    for number, job in ((2, jobs[2]), (3, jobs[1]), (4, "")):
        site.insert(
            "leads_task_list",
            [{"task_id": task_id, "leads_id": number, "leads_phone": phone(number), "reference_id": f"r{number}",
              "call_job_id": job}],
        )  # fmt: skip
    async with site.working():
        result = await site.run(task_id)
    assert [row["call_job_id"] for row in site.rows(task_id)] == [jobs[0], jobs[2], jobs[1], jobs[3]]
    assert_finished(site, task_id, result)


async def test_a_phone_decides_only_when_every_page_was_read(sites: Sites) -> None:
    site = await sites()
    rows = [{"leads_id": n, "leads_phone": phone(1), "reference_id": f"r{n}"} for n in range(1, 4)]
    # The first page holds jobs that only a phone number connects with the rows; the last holds their own.
    contacts = [Contact(phone=phone(1), reference=f"stranger-{n}") for n in range(250)]
    contacts += [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 4)]
    task_id = site.old_task(rows, contacts)
    async with site.working():
        result = await site.run(task_id)
    jobs = {job["job_id"]: job["reference_id"] for job in site.truth(task_id)}
    assert [jobs[row["call_job_id"]] for row in site.rows(task_id)] == ["r1", "r2", "r3"]
    assert_finished(site, task_id, result)


async def test_a_row_fails_only_after_the_grace_and_takes_no_part(sites: Sites) -> None:
    site = await sites()
    contacts = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 31)]
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in range(1, 41)]
    task_id = site.old_task(rows, contacts)
    site.watch_writes()
    began = site.sql("SELECT UTC_TIMESTAMP(6) AS at")[0]["at"]
    async with site.working():
        result = await site.run(task_id, QUICK.model_copy(update={"match_grace": 2}))
    failed = [write for write in site.seen_rows() if not write["new_job"] and write["new_status"] == "Failed"]
    assert len(failed) == 10
    assert min(write["at"] for write in failed) - began >= timedelta(seconds=2)
    assert (result["outcome"], result["called"], result["unmatched"], result["task_type"]) == ("complete", 30, 10, 4)
    assert_finished(site, task_id, result)


async def test_a_task_of_which_nobody_was_called_ends_without_a_follow_up(sites: Sites) -> None:
    site = await sites()
    task_id = site.old_task([{"leads_id": 1, "leads_phone": phone(1), "reference_id": "r1"}], [])
    async with site.working():
        result = await site.run(task_id)
    assert (result["outcome"], result["task_type"]) == ("nothing_called", 2)
    assert site.rows(task_id)[0]["call_status"] == "Failed"
    assert site.follow_ups() == {}


async def test_jobs_that_are_listed_late_are_taken_up_and_their_failure_is_taken_back(sites: Sites) -> None:
    site = await sites(SimulatorOptions(time_scale=30, concurrency=10, late_rate=0.25, late_lag=75))
    site.add_leads(40)
    task_id = await site.create_task()
    site.watch_writes()
    async with site.working():
        result = await site.run(task_id)
    late = [write for write in site.seen_rows() if write["old_status"] == "Failed" and write["new_job"]]
    assert len(late) > 3
    assert all(write["new_status"] is None for write in late if not write["old_job"])
    assert (result["called"], result["unmatched"]) == (40, 0)
    assert_finished(site, task_id, result)
    assert_nothing_went_back(site, task_id)


FAULTS = [
    Fault(target="QueryJobsWithResult", kind="shuffle", rate=0.4),
    Fault(target="QueryJobsWithResult", kind="missing", rate=0.5),
    Fault(target="QueryJobsWithResult", kind="vanish", count=2, seconds=2),
    Fault(target="QueryJobsWithResult", kind="wrong_shape", rate=0.5),
    Fault(target="ListJobs", kind="missing", rate=0.5),
]


async def test_pages_that_shift_or_lack_jobs_lose_nobody(sites: Sites) -> None:
    async def prove(site: Site, fault: Fault) -> None:
        contacts = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 211)]
        rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in range(1, 211)]
        task_id = site.old_task(rows, contacts)
        site.watch_writes()
        site.sim.set_faults(fault)
        result = await site.run(task_id, QUICK.model_copy(update={"match_grace": 4}))
        assert site.sim.faults.counts, "the fault struck nothing"
        assert result["called"] == 210
        assert_finished(site, task_id, result)
        assert_nothing_went_back(site, task_id)

    cases = {f"{fault.target} {fault.kind}": fault for fault in FAULTS}
    await side_by_side(sites, cases, prove, SimulatorOptions(calls_over=True))
