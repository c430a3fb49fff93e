"""The HTTP interface on numbers that are not called: each organisation's own, and no number in any log or error."""

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions, running_in_thread
from tests.api_site import OTHER_TOKEN, UPPER_TOKEN, ApiSite, failed, opening

PHONE, NUMBER = "139-0000-0001", "+8613900000001"


@pytest.fixture(scope="module")
def servers(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    with (
        running_in_thread(SimulatorOptions()) as simulators,
        opening(mariadb, temporal, simulators.url, working=False) as site,
    ):
        yield site


@pytest.fixture
def site(servers: ApiSite) -> ApiSite:
    servers.sql("DELETE FROM call_opt_outs")
    return servers


def test_a_number_is_added_found_and_lifted(site: ApiSite) -> None:
    assert site.done("/opt-outs/check?phone=13900000001") == {"opted_out": False, "opt_out": None}
    assert site.done("/opt-outs", {"phone": PHONE, "reason": "来信"}) == {"added": True}
    assert site.done("/opt-outs", {"phone": 13900000001}) == {"added": False}
    for written in ("13900000001", "+8613900000001", "%2B86%20139%200000%200001", "0086-13900000001"):
        found = site.done(f"/opt-outs/check?phone={written}")
        assert found["opted_out"] is True and found["opt_out"]["phone"] == NUMBER
    entry = found["opt_out"]
    assert (entry["source"], entry["evidence"], entry["created_by"], entry["standing"]) == (
        "person",
        "来信",
        "http",
        True,
    )
    assert datetime.fromisoformat(entry["created_at"]).utcoffset() is not None
    assert site.done("/opt-outs") == {"opt_outs": [entry], "next": None}
    lifted = site.done("/opt-outs/lift", {"phone": PHONE, "reason": "客户来电", "by": "王经理"})
    assert (lifted["standing"], lifted["lifted_by"], lifted["lift_reason"]) == (False, "王经理", "客户来电")
    assert site.done("/opt-outs/check?phone=13900000001")["opted_out"] is False
    assert site.done("/opt-outs?show=lifted")["opt_outs"] == [lifted] == site.done("/opt-outs?show=all")["opt_outs"]


def test_a_number_of_another_organisation_does_not_exist(site: ApiSite) -> None:
    site.done("/opt-outs", {"phone": PHONE})
    for token in (OTHER_TOKEN, UPPER_TOKEN):
        assert site.done("/opt-outs", token=token)["opt_outs"] == []
        assert site.done("/opt-outs/check?phone=13900000001", token=token)["opted_out"] is False
        foreign, unknown = (
            site.ask("POST", "/opt-outs/lift", {"phone": phone, "reason": "r"}, token=token)
            for phone in (PHONE, "13900000002")
        )
        assert failed(foreign, 404) == failed(unknown, 404)
        assert site.done("/opt-outs", {"phone": PHONE}, token=token) == {"added": True}
    assert len(site.done("/opt-outs")["opt_outs"]) == 1


def test_pages_lead_to_the_end(site: ApiSite) -> None:
    for number in range(5):
        site.done("/opt-outs", {"phone": f"139{number:08}"})
    seen: list[str] = []
    after: int | None = 0
    while after is not None:
        page = site.done(f"/opt-outs?after={after}&page_size=2")
        seen += [one["phone"] for one in page["opt_outs"]]
        after = page["next"]
    assert seen == [f"+86139{number:08}" for number in range(5)]


NO_NUMBERS: list[Any] = ["", "139****0001", "1390000000", "13900000001/13900000002", "张三", "x" * 5000]


@pytest.mark.parametrize("phone", NO_NUMBERS)
def test_what_is_no_number_is_refused_without_being_quoted(
    site: ApiSite, phone: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="api")
    for answer in (
        site.ask("POST", "/opt-outs", {"phone": phone}),
        site.ask("POST", "/opt-outs/lift", {"phone": phone, "reason": "r"}),
        site.ask("GET", "/opt-outs/check", params={"phone": phone}),
    ):
        said = failed(answer, 400)
        assert said.startswith("phone:") and (not phone or phone not in said + caplog.text)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/opt-outs", {}, "phone: is missing"),
        ("/opt-outs", {"phone": True}, "phone"),
        ("/opt-outs", {"phone": ["13900000001"]}, "phone"),
        ("/opt-outs", {"phone": PHONE, "reason": 7}, "reason"),
        ("/opt-outs", {"phone": PHONE, "reason": "x" * 1001}, "reason"),
        ("/opt-outs", {"phone": PHONE, "by": "x" * 192}, "by"),
        ("/opt-outs/lift", {"phone": PHONE}, "reason: is missing"),
        ("/opt-outs/lift", {"phone": PHONE, "reason": " \t"}, "reason"),
    ],
)
def test_a_wrong_body_is_refused_by_name(site: ApiSite, path: str, body: Any, expected: str) -> None:
    assert expected in failed(site.ask("POST", path, body), 400)
    assert site.sql("SELECT 1 FROM call_opt_outs") == []


@pytest.mark.parametrize("query", ["show=none", "after=-1", "after=x", "page_size=0", "page_size=1001"])
def test_a_wrong_query_is_refused_by_name(site: ApiSite, query: str) -> None:
    assert query.partition("=")[0] in failed(site.ask("GET", f"/opt-outs?{query}"), 400)


def test_check_needs_a_number_and_every_request_a_token(site: ApiSite) -> None:
    assert "phone: is missing" in failed(site.ask("GET", "/opt-outs/check"), 400)
    for method, path in (("GET", "/opt-outs"), ("GET", "/opt-outs/check?phone=1"), ("POST", "/opt-outs/lift")):
        failed(site.ask(method, path, token="nobodys"), 401)


def test_a_path_with_two_methods_names_both(site: ApiSite) -> None:
    answer = site.ask("PUT", "/opt-outs")
    failed(answer, 405)
    assert answer.headers["allow"] == "GET, POST"
