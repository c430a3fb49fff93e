"""The console as people meet it: signed in, over HTTP, and in a real browser (rule 13)."""

import csv
import inspect
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from calltasks.api import requests
from calltasks.api.console import rendering, steering
from calltasks.api.console.application import HEADERS
from calltasks.api.console.words import CHINESE
from calltasks.call_tasks import ANSWER_SECONDS
from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import wait_until
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions, running_in_thread
from tests.api_site import OTHER_TOKEN, READ_TOKEN, TOKEN, ApiSite, failed, opening
from workflows.requests import Requests

SCRIPT = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def site(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    options = SimulatorOptions(calls_over=True, answer_rate=0.6, recording_bytes=60_000)
    with running_in_thread(options) as simulators, opening(mariadb, temporal, simulators.url) as site:
        yield site


@pytest.fixture(scope="module")
def complete(site: ApiSite) -> int:
    """A campaign that has been called and followed up; names, a transcript and a remark hold script."""
    return site.completed()


@contextmanager
def signed_in(site: ApiSite, token: str = TOKEN, headers: dict[str, str] | None = None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{site.url}/console", trust_env=False, timeout=60, headers=headers) as client:
        answer = client.post("/sign-in", data={"token": token})
        assert answer.status_code == 303, answer.text
        yield client


@pytest.fixture(scope="module")
def person(site: ApiSite) -> Iterator[httpx.Client]:
    with signed_in(site) as client:
        yield client


def a_call(site: ApiSite, task_id: int, condition: str = "call_status = 'Succeeded'") -> int:
    rows = site.sql(f"SELECT id FROM leads_task_list WHERE task_id = %s AND {condition} ORDER BY id", task_id)
    return int(rows[0]["id"])


def test_nobody_sees_a_page_without_signing_in(site: ApiSite, complete: int) -> None:
    call = a_call(site, complete)
    pages = ("/", "/campaigns", f"/campaigns/{complete}", f"/calls/{call}", f"/calls/{call}/recording", "/nothing")
    for path in (*pages, f"/campaigns/{complete}/calls.csv", f"/campaigns/{complete}/pause"):
        answer = httpx.get(f"{site.url}/console{path}", trust_env=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in"), path
    refused = httpx.post(f"{site.url}/console/sign-in", data={"token": "wrong"}, trust_env=False)
    assert refused.status_code == 401 and "set-cookie" not in refused.headers


def test_the_address_as_people_type_it_leads_to_the_console(site: ApiSite) -> None:
    with httpx.Client(base_url=site.url, trust_env=False, timeout=60) as client:
        answer = client.get("/console")
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
        assert "Sign in" in client.get("/console", follow_redirects=True).text


def test_the_cookie_is_no_token_and_out_of_reach_of_scripts(site: ApiSite) -> None:
    answer = httpx.post(f"{site.url}/console/sign-in", data={"token": TOKEN}, trust_env=False)
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie and "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/console" in cookie
    assert all(answer.headers[name] == value for name, value in HEADERS.items())


def test_a_strangers_token_sees_nothing_by_any_url(site: ApiSite, complete: int) -> None:
    call = a_call(site, complete)
    with signed_in(site, OTHER_TOKEN) as stranger:
        assert f"/campaigns/{complete}" not in stranger.get("/campaigns").text
        for path in (f"/campaigns/{complete}", f"/calls/{call}", f"/calls/{call}/recording"):
            assert stranger.get(path).status_code == 404, path
        for path in ("calls.csv", "pause", "analyse-again"):
            assert stranger.get(f"/campaigns/{complete}/{path}").status_code == 404, path


def test_a_campaign_is_told_in_numbers_and_its_calls_are_listed(
    site: ApiSite, complete: int, person: httpx.Client
) -> None:
    assert f"/campaigns/{complete}" in person.get("/campaigns").text
    page = person.get(f"/campaigns/{complete}").text
    assert page.count("<tr>") == 1 + 12 and "complete" in page and "<svg" in page
    succeeded = site.sql(
        "SELECT COUNT(*) AS n FROM leads_task_list WHERE task_id = %s AND call_status = 'Succeeded'", complete
    )
    filtered = person.get(f"/campaigns/{complete}?status=Succeeded").text
    assert filtered.count("<tr>") == 1 + succeeded[0]["n"]
    assert person.get(f"/campaigns/{complete}?after=nowhere").status_code == 404


def numbers(page: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"<dt>([^<]+)</dt><dd>(\d+)</dd>", page)}


def test_a_campaign_shows_what_was_counted_last_and_is_counted_anew_by_being_looked_at(
    site: ApiSite, person: httpx.Client
) -> None:
    task_id = site.create()
    path = f"/campaigns/{task_id}"
    before = person.get(path).text
    assert numbers(before)["Leads"] == 12 and numbers(before)["Called"] == 0 and "counted at" not in before
    site.done("/start-call-task", {"task_id": task_id})
    site.finished(task_id)
    page = person.get(path).text
    truth = {"Leads": 12, "Called": 12, "Calls over": 12, "Follow-ups": 12}
    assert numbers(page) == numbers(page) | truth and "counted at" in page
    bars = [int(count) for count in re.findall(r": (\d+) calls over</title>", page)]
    assert sum(bars) == 12

    site.sql("UPDATE leads_task_list SET is_interested = 1 WHERE task_id = %s", task_id)
    site.sql("UPDATE call_standings SET counted_at = counted_at - INTERVAL 1 MINUTE WHERE task_id = %s", task_id)
    person.get(path)
    wait_until(lambda: numbers(person.get(path).text)["Interested"] == 12, 10, "a new count")
    assert 'aria-label="interested 12,' in person.get("/campaigns").text

    site.sql("UPDATE call_tasks SET create_time = create_time + INTERVAL 1 DAY WHERE id = %s", task_id)
    site.sql("UPDATE leads_task_list SET is_interested = 2 WHERE task_id = %s", task_id)
    page = person.get(path).text
    assert numbers(page)["Interested"] == 0 and "counted at" not in page, "counted is another task that had the id"


def test_a_conversation_is_shown_with_the_sentence_that_decided(
    site: ApiSite, complete: int, person: httpx.Client
) -> None:
    [found] = site.sql(
        "SELECT l.id, a.evidence FROM leads_task_list l JOIN call_analyses a ON a.list_id = l.id"
        " WHERE l.task_id = %s AND a.evidence <> '' ORDER BY l.id LIMIT 1",
        complete,
    )
    page = person.get(f"/calls/{found['id']}").text
    assert "<mark>" in page and "<audio" in page and 'class="customer' in page


def test_script_in_what_people_said_stays_text(site: ApiSite, person: httpx.Client) -> None:
    task_id = site.completed(task_name=f"sale {SCRIPT}")
    call = a_call(site, task_id)
    site.sql("UPDATE leads_task_list SET leads_name = %s WHERE id = %s", SCRIPT, call)
    site.sql(
        "UPDATE leads_task_list SET call_conversation = JSON_ARRAY(JSON_OBJECT('Speaker', 'Contact', 'Script', %s))"
        " WHERE id = %s",
        SCRIPT,
        call,
    )
    site.sql(
        "UPDATE dcc_leads_follow SET leads_remark = %s WHERE id = (SELECT leads_follow_id FROM leads_task_list"
        " WHERE id = %s)",
        f"=1+1 {SCRIPT}",
        call,
    )
    for path in ("/campaigns", f"/campaigns/{task_id}", f"/calls/{call}", f"/campaigns/{task_id}?words={SCRIPT}"):
        text = person.get(path).text
        assert "<script>" not in text and "&lt;script&gt;" in text, path
    rows = list(csv.DictReader(io.StringIO(person.get(f"/campaigns/{task_id}/calls.csv").text.lstrip("\ufeff"))))
    assert len(rows) == 12 and [row for row in rows if row["remark"].startswith("'=1+1")]
    assert [row["changed_by_a_person"] for row in rows].count("edited") == 1
    assert person.get(f"/campaigns/{task_id}?edited=1").text.count("<tr>") == 2


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("", 200, slice(None)),
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_recording_is_heard_from_any_place(
    site: ApiSite, complete: int, person: httpx.Client, wanted: str, status: int, part: slice
) -> None:
    path = f"/calls/{a_call(site, complete)}/recording"
    whole = person.get(path).content
    assert len(whole) > 1_000
    answer = person.get(path, headers={"range": wanted} if wanted else {})
    assert (answer.status_code, answer.content) == (status, whole[part])
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_call_without_recording_says_so(site: ApiSite, complete: int, person: httpx.Client) -> None:
    silent = a_call(site, complete, "call_status <> 'Succeeded'")
    assert person.get(f"/calls/{silent}/recording").status_code == 404


def test_forms_of_others_change_nothing(site: ApiSite, complete: int, person: httpx.Client) -> None:
    path = f"/campaigns/{complete}/refresh"
    assert person.post(path, data={}).status_code == 403
    assert person.post(path, data={"form_token": "0" * 64}).status_code == 403
    token = re.search(r'name="form_token" value="(\w+)"', person.get(path).text)
    assert token
    for origin in ("https://elsewhere.example", "null"):
        stranger = {"origin": origin}
        assert person.post(path, data={"form_token": token[1]}, headers=stranger).status_code == 403
        assert person.post("/sign-in", data={"token": TOKEN}, headers=stranger).status_code == 403
    # Ours is taken; the task is not running any more, which is said.
    assert person.post(path, data={"form_token": token[1]}).status_code == 409


def test_what_makes_no_sense_has_a_plain_answer(site: ApiSite, complete: int, person: httpx.Client) -> None:
    for query in ("day=9999-12-31", "day=0001-01-01", "day=tomorrow", "interest=7", "sort=x", "status=x"):
        assert person.get(f"/campaigns/{complete}?{query}").status_code == 200, query
    for query in ("after=1~x", "after=~", "sort=latest&after=tomorrow~1"):
        assert person.get(f"/campaigns/{complete}?{query}").status_code == 404, query
    for before in ("x", "9" * 5_000):
        assert person.get(f"/campaigns?before={before}").status_code == 404
    assert person.post(f"/campaigns/{complete}/refresh", data={"form_token": "密钥"}).status_code == 403
    call = a_call(site, complete)
    [was] = site.sql("SELECT is_interested FROM leads_task_list WHERE id = %s", call)
    for odd in (3, -1):
        site.sql("UPDATE leads_task_list SET is_interested = %s WHERE id = %s", odd, call)
        for path in (f"/campaigns/{complete}?edited=1", f"/calls/{call}", f"/campaigns/{complete}/calls.csv"):
            assert person.get(path).status_code == 200, path
        assert "cannot tell</span>" in person.get(f"/calls/{call}").text
    site.sql("UPDATE leads_task_list SET is_interested = %s WHERE id = %s", was["is_interested"], call)


# --- a person's word ------------------------------------------------------------------------------------------------


def hidden(person: httpx.Client, page: str) -> dict[str, str]:
    """What the forms of a page hold that nobody types."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', person.get(page).text))


def form(person: httpx.Client, page: str, action: str, **fields: str) -> httpx.Response:
    """Send a form of a page."""
    return person.post(action, data=hidden(person, page) | fields)


def judged(site: ApiSite, row: int) -> dict[str, Any]:
    [found] = site.sql(
        "SELECT l.is_interested, f.leads_remark, f.next_follow_time FROM leads_task_list l"
        " JOIN dcc_leads_follow f ON f.id = l.leads_follow_id WHERE l.id = %s",
        row,
    )
    return found


def test_a_correction_is_in_the_crm_and_survives_a_re_analysis(
    site: ApiSite, complete: int, person: httpx.Client
) -> None:
    call = a_call(site, complete)
    word = {"is_interested": "1", "leads_remark": "周六带家人来试驾", "next_follow_time": "2026-12-05T10:30"}
    assert form(person, f"/calls/{call}", f"/calls/{call}/correct", **word).status_code == 303
    said = {"is_interested": 1, "leads_remark": "周六带家人来试驾", "next_follow_time": datetime(2026, 12, 5, 10, 30)}
    assert judged(site, call) == said
    reanalysed(site, complete)
    assert judged(site, call) == said
    text = person.get(f"/calls/{call}").text
    assert "corrected" in text and "周六带家人来试驾" in text
    assert f"/calls/{call}?" in person.get(f"/campaigns/{complete}?edited=1").text


def test_what_a_person_finds_right_stays_although_nothing_was_changed(
    site: ApiSite, complete: int, person: httpx.Client
) -> None:
    rows = site.sql(
        "SELECT l.id FROM leads_task_list l JOIN call_follow_ups k ON k.list_id = l.id WHERE l.task_id = %s"
        " AND k.outcome = 'analysed' ORDER BY l.id DESC LIMIT 1",
        complete,
    )
    call = rows[0]["id"]
    before = judged(site, call)
    assert form(person, f"/calls/{call}", f"/calls/{call}/right").status_code == 303
    # A model that says something else from now on.
    site.sql(
        "UPDATE leads_task_list SET call_conversation = REPLACE(call_conversation, '。', '！') WHERE id = %s", call
    )
    reanalysed(site, complete)
    assert judged(site, call) == before and "confirmed" in person.get(f"/calls/{call}").text


def reanalysed(site: ApiSite, task_id: int) -> None:
    [before] = site.sql("SELECT COUNT(*) AS n FROM call_analyses WHERE task_id = %s AND outcome = 'kept'", task_id)
    site.done("/force-analyze", {"task_id": task_id, "all": True})

    def over() -> bool:
        progress = site.done(f"/call-tasks/{task_id}/progress")
        return progress["phase"] == "complete" and not progress["analysing_again"]

    wait_until(over, 60, "the calls are judged again", interval=0.2)
    [after] = site.sql("SELECT COUNT(*) AS n FROM call_analyses WHERE task_id = %s AND outcome = 'kept'", task_id)
    assert after["n"] > before["n"]


def test_calls_are_judged_again_part_by_part_and_those_that_were_counted(
    site: ApiSite, person: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "MOST_CALLS", 5)
    task_id = site.completed()
    rows = [row["id"] for row in site.sql("SELECT id FROM leads_task_list WHERE task_id = %s ORDER BY id", task_id)]
    path, parts = f"/campaigns/{task_id}/analyse-again?sort=oldest", list[list[int]]()
    judged_again = "SELECT COUNT(*) AS n FROM call_analyses WHERE task_id = %s AND request_id <> ''"
    while "/analyse-again" in path:
        opened = hidden(person, path)
        parts.append([int(id_) for id_ in opened["calls"].split(",")])
        assert f"{len(parts[-1])} calls are put to the model again" in person.get(path).text
        answer = person.post(path, data=opened)
        assert answer.status_code == 303, answer.text
        path = answer.headers["location"].removeprefix("/console")
    assert parts == [rows[:5], rows[5:10], rows[10:]]
    wait_until(lambda: site.sql(judged_again, task_id)[0]["n"] == 12, 60, "all are judged again", interval=0.2)
    assert path == f"/campaigns/{task_id}?sort=oldest"
    stranger = rows[0] + 1_000_000
    for shown, status in (("", 400), ("1,x", 400), (",".join(["1"] * 6), 400), (f"{stranger}", 303)):
        answer = form(person, f"/campaigns/{task_id}", f"/campaigns/{task_id}/analyse-again", calls=shown)
        assert answer.status_code == status, shown
    assert site.sql(judged_again, task_id)[0]["n"] == 12


def test_call_no_more_is_entered_and_lifted_by_a_person(site: ApiSite, complete: int, person: httpx.Client) -> None:
    call = a_call(site, complete)
    word = {"is_interested": "2", "leads_remark": "请勿再打", "next_follow_time": ""}
    form(person, f"/calls/{call}", f"/calls/{call}/correct", **word, do_not_call="1")
    entries = "SELECT organization_id, source, standing, list_id FROM call_opt_outs ORDER BY id"
    assert site.sql(entries)[-1] == {"organization_id": "org7", "source": "person", "standing": 1, "list_id": call}
    form(person, f"/calls/{call}", f"/calls/{call}/correct", **word)
    assert site.sql(entries)[-1]["standing"] is None


def test_a_page_that_was_opened_before_somebody_changed_the_call_changes_nothing(
    site: ApiSite, complete: int, person: httpx.Client
) -> None:
    call = a_call(site, complete)
    path = f"/calls/{call}"
    [row] = site.sql("SELECT leads_phone, leads_follow_id AS follow_id FROM leads_task_list WHERE id = %s", call)
    typed = {"is_interested": "1", "leads_remark": "改了一个错字", "next_follow_time": ""}
    words = f"SELECT COUNT(*) AS n FROM call_corrections WHERE list_id = {call}"

    def refused(opened: dict[str, str]) -> None:
        before, said = judged(site, call), site.sql(words)
        for action, fields in (("correct", typed), ("right", {})):
            answer = person.post(f"{path}/{action}", data=opened | fields)
            assert answer.status_code == 409 and "Somebody has changed this call" in answer.text, action
            assert ("改了一个错字" in answer.text) == (action == "correct") and f'href="/console{path}?' in answer.text
        assert (judged(site, call), site.sql(words)) == (before, said)

    opened = hidden(person, path)
    site.done("/opt-outs", {"phone": row["leads_phone"], "reason": "来信"})
    refused(opened)
    asked = f"/opt-outs/check?phone={row['leads_phone']}"
    assert site.done(asked)["opted_out"], "the refusal is not lifted by who has not seen it"

    opened = hidden(person, path)
    for action in ("lift", ""):
        site.done(f"/opt-outs/{action}".rstrip("/"), {"phone": row["leads_phone"], "reason": "来电"})
    refused(opened)
    assert site.done(asked)["opted_out"], "nor is another one that was entered since"

    for column, value in (("leads_remark", "李经理：已约周日"), ("next_follow_time", "2026-12-06 09:00:00")):
        opened = hidden(person, path)
        site.sql(f"UPDATE dcc_leads_follow SET {column} = %s WHERE id = %s", value, row["follow_id"])
        refused(opened)
    opened = hidden(person, path)
    site.sql("UPDATE leads_task_list SET is_interested = (is_interested + 1) %% 3 WHERE id = %s", call)
    refused(opened)

    assert form(person, path, f"{path}/correct", **typed, do_not_call="1").status_code == 303
    assert site.done(asked)["opted_out"] and judged(site, call)["leads_remark"] == "改了一个错字"
    assert form(person, path, f"{path}/correct", **typed).status_code == 303
    assert not site.done(asked)["opted_out"]


@pytest.mark.parametrize(
    "word",
    [
        {"is_interested": "3", "leads_remark": "x"},
        {"is_interested": "1", "leads_remark": " "},
        {"is_interested": "1", "leads_remark": "x", "next_follow_time": "tomorrow"},
        {"is_interested": "1", "leads_remark": "x", "next_follow_time": "9999-12-31T23:59"},
        {"is_interested": "1", "leads_remark": "长" * 2_001},
    ],
)
def test_a_wrong_correction_changes_nothing(
    site: ApiSite, complete: int, person: httpx.Client, word: dict[str, str]
) -> None:
    call = a_call(site, complete)
    before = judged(site, call)
    assert form(person, f"/calls/{call}", f"/calls/{call}/correct", **word).status_code == 400
    assert judged(site, call) == before


def test_calls_that_are_worth_reading_come_first_and_go_when_they_were_read(
    site: ApiSite, person: httpx.Client
) -> None:
    task_id = site.completed()
    unproven, disputed = (
        row["list_id"]
        for row in site.sql(
            "SELECT list_id FROM call_analyses WHERE task_id = %s AND outcome = 'analysed' ORDER BY id LIMIT 2", task_id
        )
    )
    site.sql("UPDATE call_analyses SET evidence = '……' WHERE task_id = %s", task_id)
    site.sql("UPDATE call_analyses SET evidence = '' WHERE list_id = %s", unproven)
    site.sql(
        "INSERT INTO call_analyses (list_id, task_id, call_job_id, outcome, is_interested, leads_remark, evidence,"
        " do_not_call, transcript_hash, created_at) SELECT list_id, task_id, call_job_id, 'second',"
        " (is_interested + 1) %% 3, 'x', 'x', '', transcript_hash, created_at FROM call_analyses"
        " WHERE list_id = %s AND outcome = 'analysed'",
        disputed,
    )
    page = person.get(f"/campaigns/{task_id}?to_read=1").text
    shown = [int(id_) for id_ in re.findall(r'href="/console/calls/(\d+)\?', page)]
    assert shown[0] == disputed and unproven in shown
    answer = form(person, f"/calls/{disputed}", f"/calls/{disputed}/right?to_read=1&sort=worth")
    assert answer.headers["location"].startswith(f"/console/calls/{shown[1]}?")
    assert f"/calls/{disputed}?" not in person.get(f"/campaigns/{task_id}?to_read=1").text


# --- what does not answer -----------------------------------------------------------------------------------------


def test_what_the_platform_has_not_confirmed_is_said_before_the_request_is_given_up(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (ANSWER_SECONDS + steering.CONFIRM_SECONDS).total_seconds() < requests.SECONDS - 2
    monkeypatch.setattr(steering, "CONFIRM_SECONDS", timedelta(seconds=1))
    slow = SimulatorOptions(seconds_per_call=600, concurrency=1)
    paused = "SELECT paused FROM call_task_options WHERE task_id = %s"
    with running_in_thread(slow) as simulators, opening(mariadb, temporal, simulators.url) as site:
        task_id = site.create()
        site.done("/start-call-task", {"task_id": task_id})
        with signed_in(site) as person:
            progress = f"/call-tasks/{task_id}/progress"
            wait_until(lambda: site.done(progress)["phase"] == "calling", 60, "it is calling")
            site.fail({"target": "SuspendJobs", "kind": "hang", "seconds": 4})
            answer = form(person, f"/campaigns/{task_id}/pause", f"/campaigns/{task_id}/pause")
            assert answer.status_code == 202 and "not confirmed it yet" in answer.text
            site.fail()
            wait_until(lambda: site.sql(paused, task_id) == [{"paused": 1}], 60, "the platform pauses")
            form(person, f"/campaigns/{task_id}/cancel", f"/campaigns/{task_id}/cancel")


def test_without_a_worker_a_running_campaign_is_shown_at_once(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal
) -> None:
    with (
        running_in_thread(SimulatorOptions()) as simulators,
        opening(mariadb, temporal, simulators.url, working=False) as site,
        signed_in(site) as person,
    ):
        task_id = site.create()
        site.done("/start-call-task", {"task_id": task_id})
        began = monotonic()
        page = person.get(f"/campaigns/{task_id}").text
        assert monotonic() - began < 5 and f"/campaigns/{task_id}/pause" in page


# --- roles ----------------------------------------------------------------------------------------------------------


def test_a_token_that_may_only_read_sees_masked_numbers_and_changes_nothing(site: ApiSite, complete: int) -> None:
    with signed_in(site, READ_TOKEN) as reader:
        page = reader.get(f"/campaigns/{complete}").text
        assert "139****0001" in page and "13900000001" not in page and "analyse-again" not in page
        assert "13900000001" not in reader.get(f"/campaigns/{complete}/calls.csv").text
        call = a_call(site, complete)
        assert "/correct" not in reader.get(f"/calls/{call}").text
        assert form(reader, "/campaigns", f"/calls/{call}/right").status_code == 403
        assert form(reader, "/campaigns", f"/campaigns/{complete}/cancel").status_code == 403
    failed(site.ask("POST", "/force-analyze", {"task_id": complete, "all": True}, token=READ_TOKEN), 403)
    failed(site.ask("GET", "/opt-outs", token=READ_TOKEN), 403)
    assert site.ask("GET", f"/call-tasks/{complete}/progress", token=READ_TOKEN).status_code == 200


def test_numbers_within_texts_are_masked_too_for_who_may_only_read(site: ApiSite, person: httpx.Client) -> None:
    task_id = site.completed(task_name="sale of 13900000099")
    call = a_call(site, task_id)
    said = "JSON_ARRAY(JSON_OBJECT('Speaker', 'Contact', 'Script', %s))"
    site.sql(
        f"UPDATE leads_task_list SET leads_name = %s, call_conversation = {said} WHERE id = %s",
        *("张三13900000088", "我的号码是 139 0000 0077，请打这个", call),
    )
    site.sql(
        "UPDATE dcc_leads_follow SET leads_remark = '回电13900000066' WHERE id ="
        " (SELECT leads_follow_id FROM leads_task_list WHERE id = %s)",
        call,
    )
    pages = ("/campaigns", f"/campaigns/{task_id}", f"/calls/{call}", f"/campaigns/{task_id}/calls.csv")
    whole = re.compile("139 ?0000 ?00(?:66|77|88|99)")
    with signed_in(site, READ_TOKEN) as reader:
        for path in pages:
            text = reader.get(path).text
            assert whole.search(person.get(path).text), path
            assert "139****00" in text or "139 **** 00" in text, path
            assert not whole.search(text), path


def test_who_is_signed_in_is_asked_before_another_takes_her_place(site: ApiSite, person: httpx.Client) -> None:
    page = person.get("/sign-in").text
    assert "data-signed-in" in page and "signed in already, for org7" in page
    assert "data-signed-in" not in httpx.get(f"{site.url}/console/sign-in", trust_env=False).text


def test_every_phase_has_its_words() -> None:
    phases = set(re.findall(r'"(\w+)"', inspect.getsource(Requests._phase)))
    template = (Path(rendering.__file__).parent / "templates/campaign.html").read_text("utf-8")
    assert {"calling", "recordings"} <= phases <= set(re.findall(r'"(\w+)": t\(', template))


def test_every_word_of_the_pages_has_its_chinese() -> None:
    templates = Path(rendering.__file__).parent / "templates"
    said = {word for one in templates.glob("*.html") for word in re.findall(r't\("([^"]+)"', one.read_text("utf-8"))}
    said |= {word for one in templates.glob("*.html") for word in re.findall(r"t\('([^']+)'", one.read_text("utf-8"))}
    assert len(said) > 60 and said <= CHINESE.keys()
    assert all(set(re.findall(r"{\w+}", word)) == set(re.findall(r"{\w+}", CHINESE[word])) for word in CHINESE)


def test_pages_speak_the_browsers_language(site: ApiSite) -> None:
    for accepted, word in (("zh-CN,zh;q=0.9,en;q=0.8", "外呼活动"), ("en-GB,en;q=0.9,zh;q=0.1", "Campaigns")):
        with signed_in(site, headers={"accept-language": accepted}) as client:
            assert word in client.get("/campaigns").text
