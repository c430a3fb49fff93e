"""The HTTP interface: every endpoint and every error, through a real server on the real parts."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import wait_until
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions, running_in_thread
from tests.api_site import (
    ORGANIZATION,
    OTHER,
    OTHER_TOKEN,
    PATHS,
    TASK_PATHS,
    TOKEN,
    UPPER_TOKEN,
    ApiSite,
    failed,
    opening,
)

MISSING = 424242


@pytest.fixture(scope="module")
def site(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    with (
        running_in_thread(SimulatorOptions(calls_over=True, answer_rate=0.6)) as simulators,
        opening(mariadb, temporal, simulators.url) as site,
    ):
        yield site


@pytest.fixture(scope="module")
def complete(site: ApiSite) -> int:
    """A task that has been called and followed up."""
    task_id = site.create()
    assert site.done("/start-call-task", {"task_id": task_id})["started"] is True
    site.finished(task_id)
    return task_id


# --- each endpoint --------------------------------------------------------------------------------------------------


def test_a_campaign_from_creation_to_follow_up(site: ApiSite) -> None:
    task_id = site.create(leads_ids=[1, "2", 3], all_leads=False, organization_id=ORGANIZATION)
    rows = site.sql("SELECT leads_id, reference_id FROM leads_task_list WHERE task_id = %s ORDER BY id", task_id)
    assert [row["leads_id"] for row in rows] == [1, 2, 3]
    assert site.sql("SELECT task_name, organization_id, task_type FROM call_tasks WHERE id = %s", task_id) == [
        {"task_name": "spring sale", "organization_id": ORGANIZATION, "task_type": 1}
    ]
    started = site.done("/start-call-task", {"task_id": str(task_id)})
    told = {"task_id": task_id, "workflow_id": f"call-task-{task_id}", "started": True, "dialling_begins": ""}
    assert started == told
    assert site.done("/start-call-task", {"task_id": task_id}) == started | {"started": False}
    progress = site.finished(task_id)
    assert (progress["task_id"], progress["task_type"], progress["leads"]) == (task_id, 4, 3)
    assert progress["called"] == progress["follow_ups"] == 3
    assert len(site.sql("SELECT 1 FROM leads_task_list WHERE task_id = %s AND leads_follow_id > 0", task_id)) == 3


def test_all_leads_are_those_of_the_organisation(site: ApiSite) -> None:
    for token, first in ((TOKEN, 1), (OTHER_TOKEN, 1001)):
        task_id = site.create(token, leads_ids=[])
        rows = site.sql("SELECT leads_id FROM leads_task_list WHERE task_id = %s ORDER BY id", task_id)
        assert [row["leads_id"] for row in rows] == list(range(first, first + 12))


def test_query_returns_a_page_of_the_platforms_jobs(site: ApiSite, complete: int) -> None:
    ids = [
        row["call_job_id"]
        for row in site.sql("SELECT call_job_id FROM leads_task_list WHERE task_id = %s ORDER BY id", complete)
    ]
    for page, expected in ((1, ids[:5]), ("3", ids[10:]), (4, [])):
        found = site.done("/query-task-execution", {"task_id": complete, "page": page, "page_size": "5"})
        assert sorted(job["JobId"] for job in found.pop("jobs_data")) == sorted(expected)
        assert found == {"updated_count": 0, "page": int(page), "page_size": 5, "total": 12}
    whole = site.done("/query-task-execution", {"task_id": str(complete)})
    assert (len(whole["jobs_data"]), whole["page"], whole["page_size"]) == (12, 1, 20)
    spoken = [turn["Script"] for job in whole["jobs_data"] for task in job["Tasks"] for turn in task["Conversation"]]
    assert spoken and any("\u4e00" <= letter <= "\u9fff" for letter in "".join(spoken))


def test_query_saves_what_changed_and_recordings_only_when_asked(site: ApiSite, complete: int) -> None:
    before = saved(site, complete)
    recorded = sum(bool(row["recording_url"]) for row in before)
    assert recorded
    emptied = "calling_number = '', call_conversation = NULL, recording_url = ''"
    site.sql(f"UPDATE leads_task_list SET {emptied} WHERE task_id = %s", complete)
    stale = saved(site, complete)
    body = {"task_id": complete}
    assert site.done("/query-task-execution", body | {"apply_update": False})["updated_count"] == 0
    assert saved(site, complete) == stale
    assert site.done("/query-task-execution", body)["updated_count"] == 12
    assert saved(site, complete) == [row | {"recording_url": ""} for row in before]
    assert site.done("/query-task-execution", body | {"skip_recording": False})["updated_count"] == recorded
    assert [bool(row["recording_url"]) for row in saved(site, complete)] == [
        bool(row["recording_url"]) for row in before
    ]
    assert site.done("/query-task-execution", body | {"skip_recording": False})["updated_count"] == 0


def test_query_mends_a_row_whose_transcript_is_known(site: ApiSite, complete: int) -> None:
    before = saved(site, complete)
    site.sql("UPDATE leads_task_list SET calling_number = '' WHERE task_id = %s", complete)
    try:
        assert site.done("/query-task-execution", {"task_id": complete})["updated_count"] == 12
        assert saved(site, complete) == before
    finally:
        rows = [(row["calling_number"], row["id"]) for row in before]
        for number, row_id in rows:
            site.sql("UPDATE leads_task_list SET calling_number = %s WHERE id = %s", number, row_id)


def saved(site: ApiSite, task_id: int) -> list[dict[str, Any]]:
    """What the platform decides of the task's rows; NULL and '' are one."""
    columns = "id, call_status, call_conversation, planed_time, call_task_id, calling_number, recording_url"
    rows = site.sql(f"SELECT {columns} FROM leads_task_list WHERE task_id = %s ORDER BY id", task_id)
    return [{name: value or "" for name, value in row.items()} for row in rows]


def test_calls_are_judged_again_and_none_gets_a_second_follow_up(site: ApiSite, complete: int) -> None:
    jobs = [
        row["call_job_id"]
        for row in site.sql("SELECT call_job_id FROM leads_task_list WHERE task_id = %s ORDER BY id", complete)
    ]
    follow_ups = len(site.sql("SELECT 1 FROM dcc_leads_follow"))
    for choice, count in (({"call_job_ids": jobs[:2]}, 2), ({"all": True}, 12), ({"failed": True}, 0)):
        before = site.finished(complete)["reanalysed"]
        assert site.done("/force-analyze", {"task_id": complete} | choice) == {"task_id": complete, "requested": True}

        def judged(wanted: int = before + count) -> bool:
            return bool(site.finished(complete)["reanalysed"] == wanted)

        wait_until(judged, 150, "the calls are judged again", interval=0.2)
    assert len(site.sql("SELECT 1 FROM dcc_leads_follow")) == follow_ups


def test_filters_take_the_calls_that_they_describe(site: ApiSite, complete: int) -> None:
    rows = site.sql("SELECT is_interested FROM leads_task_list WHERE task_id = %s", complete)
    undecided = sum(row["is_interested"] == 0 for row in rows)
    assert 0 < undecided < len(rows)
    today = site.sql("SELECT MAX(DATE(updated_time)) AS day FROM leads_task_list")[0]["day"].isoformat()
    for narrowed, count in (
        ({"interest": 0}, undecided),
        ({"until": "2020-01-01"}, 0),
        ({"since": "2020-01-01", "until": today, "prompt_version": "none-such"}, 0),
        ({"since": "2020-01-01", "until": "9999-12-31", "override": True}, len(rows)),
    ):
        before = site.finished(complete)["reanalysed"]
        site.done("/force-analyze", {"task_id": complete, "all": True} | narrowed)

        def judged(wanted: int = before + count) -> bool:
            progress = site.finished(complete)
            return bool(not progress["analysing_again"] and progress["reanalysed"] == wanted)

        wait_until(judged, 150, f"{narrowed} are judged again", interval=0.2)


def test_a_token_ceiling_of_the_start_is_shown_and_kept(site: ApiSite) -> None:
    task_id = site.create()
    assert site.done("/start-call-task", {"task_id": task_id, "token_ceiling": "600"})["started"] is True
    progress = site.finished(task_id)
    assert progress["token_ceiling"] == 600 and progress["over_ceiling"] > 0
    assert progress["follow_ups"] == progress["called"] == 12


def test_a_dry_run_says_who_would_be_called_and_the_limits_of_a_start_are_kept(site: ApiSite) -> None:
    site.finished(_started(site, task_id=site.create()))
    task_id = site.create()
    body = {"task_id": task_id, "not_called_within": 7, "at_most": 3.0, "in_days": 30}
    said = site.done("/start-call-task", body | {"dry_run": True})
    assert (said["leads"], said["to_call"], said["by_reason"]) == (12, 0, {"called_lately": 12})
    assert sorted(map(int, said["left_out"]["called_lately"])) == list(range(1, 13))
    assert said["limits"] == {"not_called_within": 7, "at_most": 3, "in_days": 30}
    failed(site.ask("POST", "/start-call-task", {"task_id": task_id, "dry_run": True}, token=OTHER_TOKEN), 404)
    assert site.sql("SELECT * FROM call_task_options WHERE task_id = %s", task_id) == []
    progress = site.finished(_started(site, **body))
    assert progress["suppressed_by_reason"] == said["by_reason"] and progress["called"] == 0


def _started(site: ApiSite, **body: Any) -> int:
    assert site.done("/start-call-task", body)["started"] is True
    return int(body["task_id"])


def test_a_run_that_is_over_says_so(site: ApiSite) -> None:
    task_id = site.create(leads_ids=[1, 2, 3, 4], all_leads=False)
    site.done("/start-call-task", {"task_id": task_id})
    site.finished(task_id)
    site.sql("UPDATE leads_task_list SET recording_url = '' WHERE task_id = %s", task_id)
    site.done("/force-analyze", {"task_id": task_id, "all": True})
    site.finished(task_id)


def test_the_monitor_is_started_stopped_and_takes_up_what_nobody_works_on(site: ApiSite, complete: int) -> None:
    def steer(action: str, token: str = TOKEN) -> Any:
        return site.done("/auto-task", {"action": action}, token=token)

    assert steer("stop") == {"is_running": False, "action": "stop"}
    for _ in range(2):
        assert steer("start") == {"is_running": True, "action": "start"}
    assert steer("stop", OTHER_TOKEN) == {"is_running": False, "action": "stop"}
    site.sql("UPDATE call_tasks SET task_type = 3 WHERE id = %s", complete)
    assert steer("check") == {"is_running": False, "action": "check"}
    closed = "SELECT task_type FROM call_tasks WHERE id = %s"
    wait_until(lambda: site.sql(closed, complete)[0]["task_type"] == 4, 150, "the task is taken up and closed")


def test_health_needs_no_token(site: ApiSite) -> None:
    answer = site.http.get("/healthz")
    assert (answer.status_code, answer.json()["data"]) == (200, {"database": True, "temporal": True})


# --- whose task it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"access-token": ""}, {"access-token": "token-of-org"}, {"access-token": "é"}])
def test_nobody_gets_in_without_a_token(site: ApiSite, path: str, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    for body in (b'{"task_id": 1}', b"{", b"x" * 2_000_000):
        answer = site.http.post(path, content=body, headers=[*raw, (b"content-type", b"application/json")])
        assert "access-token" in failed(answer, 401)
        assert answer.headers["www-authenticate"]


def test_the_progress_needs_a_token_too(site: ApiSite) -> None:
    failed(site.http.get("/call-tasks/1/progress"), 401)


def test_a_task_of_another_organisation_is_like_none_at_all(site: ApiSite, complete: int) -> None:
    created = site.create()
    before = site.sql("SELECT * FROM call_tasks ORDER BY id")
    for path in TASK_PATHS:
        for foreign in (complete, created):
            answers = [
                site.ask("POST", path, {"task_id": id_, "all": True}, token=OTHER_TOKEN) for id_ in (foreign, MISSING)
            ]
            assert failed(answers[0], 404) == failed(answers[1], 404).replace(str(MISSING), str(foreign))
            assert answers[0].headers.keys() == answers[1].headers.keys()
    for foreign in (complete, created):
        paths = (f"/call-tasks/{id_}/progress" for id_ in (foreign, MISSING))
        answers = [site.ask("GET", path, token=OTHER_TOKEN) for path in paths]
        assert failed(answers[0], 404) == failed(answers[1], 404).replace(str(MISSING), str(foreign))
    assert site.sql("SELECT * FROM call_tasks ORDER BY id") == before


@pytest.mark.parametrize("path", PATHS)
def test_a_body_cannot_name_another_organisation(site: ApiSite, complete: int, path: str) -> None:
    whole: dict[str, Any] = {"all": True, "action": "check", "phone": "13900000001", "reason": "asked"}
    if path == PATHS[0]:
        whole = {"task_name": "x", "all_leads": True}
    for task_id in (complete, MISSING):
        for other in (OTHER, ORGANIZATION.upper(), f"{ORGANIZATION} ", "", 7):
            body = whole | {"task_id": task_id, "organization_id": other}
            failed(site.ask("POST", path, body), 403)


def test_leads_of_another_organisation_do_not_exist(site: ApiSite) -> None:
    for unknown in (1001, MISSING):
        body = {"task_name": "x", "leads_ids": [1, unknown]}
        assert str(unknown) in failed(site.ask("POST", "/create-autoCall-tasks", body), 404)


def test_organisations_that_differ_in_case_only_do_not_share_leads(site: ApiSite) -> None:
    body = {"task_name": "x", "all_leads": True}
    failed(site.ask("POST", "/create-autoCall-tasks", body, token=UPPER_TOKEN), 404)


# --- what is wrong with a request -----------------------------------------------------------------------------------

WRONG_NUMBERS: list[Any] = [0, -1, 1.5, True, None, "", "1.0", " 1", "+1", "01", "１", "x", [1], {}, 10**19, "9" * 19]
NO_OBJECTS: list[Any] = [[], 7, "x", None]
INVALID: list[tuple[str, Any, str]] = [
    ("/create-autoCall-tasks", {}, "task_name: is missing"),
    ("/create-autoCall-tasks", {"task_name": "x"}, "leads_ids"),
    ("/create-autoCall-tasks", {"task_name": "x", "leads_ids": []}, "leads_ids"),
    ("/create-autoCall-tasks", {"task_name": "x", "leads_ids": [1], "all_leads": True}, "either"),
    ("/create-autoCall-tasks", {"task_name": "x", "leads_ids": [1, True]}, "leads_ids.1"),
    ("/create-autoCall-tasks", {"task_name": "x", "leads_ids": "1,2"}, "leads_ids"),
    ("/create-autoCall-tasks", {"task_name": "x", "leads_ids": [0] * 50}, "and 45 more"),
    ("/create-autoCall-tasks", {"task_name": " ", "all_leads": True}, "task_name"),
    ("/create-autoCall-tasks", {"task_name": "a\0b", "all_leads": True}, "task_name"),
    ("/create-autoCall-tasks", {"task_name": "车" * 256, "all_leads": True}, "task_name"),
    ("/create-autoCall-tasks", {"task_name": 7, "all_leads": True}, "task_name"),
    ("/create-autoCall-tasks", {"task_name": "x", "all_leads": "true"}, "all_leads"),
    ("/start-call-task", {}, "task_id: is missing"),
    *(("/start-call-task", {"task_id": wrong}, "task_id: must be a whole number") for wrong in WRONG_NUMBERS),
    ("/query-task-execution", {"task_id": 1, "page": 0}, "page"),
    ("/query-task-execution", {"task_id": 1, "page_size": 1001}, "page_size"),
    ("/query-task-execution", {"task_id": 1, "skip_recording": 1}, "skip_recording"),
    ("/query-task-execution", {"task_id": 1, "apply_update": None}, "apply_update"),
    ("/force-analyze", {"task_id": 1}, "exactly one"),
    ("/force-analyze", {"task_id": 1, "all": True, "failed": True}, "exactly one"),
    ("/force-analyze", {"task_id": 1, "call_job_ids": []}, "exactly one"),
    ("/force-analyze", {"task_id": 1, "call_job_ids": [""]}, "call_job_ids.0"),
    ("/force-analyze", {"task_id": 1, "call_job_ids": ["x" * 65]}, "call_job_ids.0"),
    ("/force-analyze", {"task_id": 1, "all": True, "interest": 3}, "interest"),
    ("/force-analyze", {"task_id": 1, "all": True, "interest": True}, "interest"),
    ("/force-analyze", {"task_id": 1, "all": True, "since": "2026-13-01"}, "since: must be a day"),
    ("/force-analyze", {"task_id": 1, "all": True, "until": 20261101}, "until: must be a day"),
    ("/force-analyze", {"task_id": 1, "all": True, "prompt_version": "a b"}, "prompt_version"),
    ("/force-analyze", {"task_id": 1, "all": True, "max_tokens": 0}, "max_tokens: must be a whole number"),
    ("/start-call-task", {"task_id": 1, "token_ceiling": 0}, "token_ceiling: must be a whole number"),
    ("/start-call-task", {"task_id": 1, "not_called_within": 367}, "not_called_within"),
    ("/start-call-task", {"task_id": 1, "not_called_within": None}, "not_called_within"),
    ("/start-call-task", {"task_id": 1, "at_most": 3}, "at_most and in_days go together"),
    ("/start-call-task", {"task_id": 1, "in_days": 3}, "at_most and in_days go together"),
    ("/start-call-task", {"task_id": 1, "dry_run": "true"}, "dry_run"),
    ("/auto-task", {}, "action: is missing"),
    ("/auto-task", {"action": "status"}, "action"),
    *(("/auto-task", wrong, "JSON object") for wrong in NO_OBJECTS),
]


@pytest.mark.parametrize(("path", "body", "expected"), INVALID)
def test_a_wrong_body_is_refused_by_name(site: ApiSite, path: str, body: Any, expected: str) -> None:
    answer = site.ask("POST", path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert expected in failed(answer, 400)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b'{"task_id": 1', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"task_name": "\\ud800", "all_leads": true, "task_id": 0}', "application/json"),
        (b'{"task_id": 1' + b"0" * 5000 + b"}", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"task_id": 1}', "text/plain"),
        (b"task_id=1", "application/x-www-form-urlencoded"),
    ],
)
@pytest.mark.parametrize("path", ["/create-autoCall-tasks", "/start-call-task"])
def test_what_is_no_json_object_is_refused(site: ApiSite, path: str, content: bytes, content_type: str) -> None:
    failed(site.ask("POST", path, content=content, headers={"content-type": content_type}), 400)


def test_an_unusual_but_right_body_is_taken(site: ApiSite) -> None:
    body = {
        "task_name": "春季 🚗 " + "车" * 240,
        "leads_ids": [1.0, 1, "1"],
        "unknown": [],
        "organization_id": ORGANIZATION,
    }
    answer = site.ask("POST", "/create-autoCall-tasks", content=json.dumps(body).encode())  # no content-type at all
    assert answer.status_code == 200, answer.text
    task_id = answer.json()["data"]["task_id"]
    assert len(site.sql("SELECT 1 FROM leads_task_list WHERE task_id = %s", task_id)) == 1
    assert site.sql("SELECT task_name FROM call_tasks WHERE id = %s", task_id)[0]["task_name"] == body["task_name"]


def test_paths_and_methods_that_do_not_exist(site: ApiSite) -> None:
    for path in ("/", "/docs", "/create-autocall-tasks", "/start-call-task/", "/call-tasks/1"):
        failed(site.ask("GET", path), 404)
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = site.ask(method, "/start-call-task")
        failed(answer, 405)
        assert answer.headers["allow"] == "POST"
    for wrong in ("0", "x", "1.0", "-1", "9" * 19, "%00", "１"):
        assert "id: must be a whole number" in failed(site.ask("GET", f"/call-tasks/{wrong}/progress"), 400)


def test_a_body_has_a_largest_size(site: ApiSite) -> None:
    fits = {"task_id": MISSING, "more": "x" * 990_000}
    failed(site.ask("POST", "/start-call-task", fits), 404)
    large = json.dumps(fits | {"more": "x" * 1_000_000}).encode()
    failed(site.ask("POST", "/start-call-task", content=large), 413)
    parts = (large[start : start + 50_000] for start in range(0, len(large), 50_000))
    failed(site.ask("POST", "/start-call-task", content=parts), 413)


# --- not yet, and not now -------------------------------------------------------------------------------------------


def test_a_task_that_was_not_started_has_no_job_ids_and_is_not_dialled_by_asking(site: ApiSite) -> None:
    task_id = site.create(leads_ids=[5], all_leads=False)
    failed(site.ask("POST", "/query-task-execution", {"task_id": task_id}), 409, 4009)
    failed(site.ask("POST", "/force-analyze", {"task_id": task_id, "all": True}), 409, 4009)
    assert "/start-call-task" in failed(site.ask("GET", f"/call-tasks/{task_id}/progress"), 409)
    assert site.sql("SELECT task_type, job_group_id FROM call_tasks WHERE id = %s", task_id) == [
        {"task_type": 1, "job_group_id": ""}
    ]


@pytest.mark.parametrize("kind", ["permanent", "status_503", "html", "reset", "success_false", "wrong_shape"])
def test_a_failing_platform_is_5003(site: ApiSite, complete: int, kind: str) -> None:
    site.fail({"target": "ListJobs", "kind": kind})
    try:
        message = failed(site.ask("POST", "/query-task-execution", {"task_id": complete}), 502, 5003)
    finally:
        site.fail()
    assert not re.search(r"139\d{8}|127\.0\.0\.1|Traceback", message)
    assert site.done("/query-task-execution", {"task_id": complete})["total"] == 12


def test_one_request_that_fails_does_not_fail_others(site: ApiSite, complete: int) -> None:
    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=site.url, headers={"access-token": TOKEN}, trust_env=False) as client:
            paths = ["/query-task-execution", "/start-call-task"] * 10
            bodies = [{"task_id": id_} for id_ in (complete, MISSING, MISSING, 0)] * 5
            answers = await asyncio.gather(
                *(client.post(path, json=body) for path, body in zip(paths, bodies, strict=True))
            )
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200, 404, 404, 400] * 5


# --- subscriptions to events ------------------------------------------------------------------------------------------


def test_an_organisation_subscribes_sees_and_leaves_its_subscriptions_alone(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/event-subscriptions"
    assert "public" in failed(site.ask("POST", path, {"url": "https://127.0.0.1/events"}), 403)
    nonsense = {"url": "http://127.0.0.1:9/events", "since": "0001-01-01T00:00:00+08:00"}
    assert "since: must be" in failed(site.ask("POST", path, nonsense), 400)
    monkeypatch.setenv("EVENTS_NETWORKS", "127.0.0.0/8")
    made = site.done(path, {"url": "http://127.0.0.1:9/events", "kinds": ["task.complete"], "batch": True})
    assert made["secret"].startswith("whsec_")
    listed = site.done(path)
    assert [(one["id"], one["kinds"], one["state"]) for one in listed] == [(made["id"], ["task.complete"], "active")]
    assert made["secret"] not in json.dumps(listed)
    assert site.done(path, token=OTHER_TOKEN) == []
    wrong = {"url": "https://example.com/", "kinds": ["task.begun"]}
    assert "must be one of" in failed(site.ask("POST", path, wrong), 400)
    failed(site.ask("DELETE", path, params={"id": made["id"]}, token=OTHER_TOKEN), 404)
    failed(site.ask("POST", path, {"url": "http://127.0.0.1:9/", "organization_id": OTHER}), 403)
    assert site.ask("DELETE", path, params={"id": made["id"]}).status_code == 200
    failed(site.ask("DELETE", path, params={"id": made["id"]}), 404)
    assert site.done(path) == []
