"""The console in a real browser, Chromium without a window: what a sales manager does, from signing in to a correction
that stays; for eyes that need contrast, hands that need keys, and in both languages (rule 13)."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import wait_until
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions, running_in_thread
from tests.api_site import OTHER_TOKEN, TOKEN, ApiSite, opening

NAME = "王经理"


@pytest.fixture(scope="module")
def site(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    options = SimulatorOptions(calls_over=True, answer_rate=0.6, recording_bytes=60_000)
    with running_in_thread(options) as simulators, opening(mariadb, temporal, simulators.url) as site:
        yield site


@pytest.fixture(scope="module")
def complete(site: ApiSite) -> int:
    return site.completed()


@pytest.fixture(scope="module")
def slow_site(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    """Where one call is made after the other."""
    slow = SimulatorOptions(seconds_per_call=2, concurrency=1, answer_rate=0.5, retry_rate=0)
    with running_in_thread(slow) as simulators, opening(mariadb, temporal, simulators.url) as site:
        yield site


@pytest.fixture(scope="module")
def chromium(site: ApiSite, slow_site: ApiSite) -> Iterator[Browser]:
    # After the sites: what drives the browser occupies the thread's event loop.
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "Chromium is missing: `make test` installs it"
    # Its sandbox does not run for root.
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=args)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, site: ApiSite, *, language: str = "en-GB", scheme: str = "light", width: int = 1280
) -> Iterator[Page]:
    """A page of somebody who has signed in. Nothing on it may fail, be refused or leave the site."""
    context = browser.new_context(
        locale=language,
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 900},
        base_url=site.url,
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
    page.on("request", lambda asked: None if asked.url.startswith((site.url, "data:")) else troubles.append(asked.url))
    page.goto("/console/")
    page.fill("#token", TOKEN)
    page.fill("#name", NAME)
    page.click("main button")
    page.wait_for_url("**/console/campaigns")
    yield page
    context.close()
    assert not troubles


def until(page: Page, condition: str) -> None:
    """Wait for what Playwright's own waiting would have to evaluate in the page, which our policy forbids."""
    wait_until(lambda: page.wait_for_timeout(50) or bool(page.evaluate(condition)), 60, condition)  # type: ignore[func-returns-value]


def a_call(site: ApiSite, task_id: int) -> str:
    rows = site.sql(
        "SELECT l.id FROM leads_task_list l JOIN call_analyses a ON a.list_id = l.id AND a.evidence <> ''"
        " WHERE l.task_id = %s ORDER BY l.id LIMIT 1",
        task_id,
    )
    return f"/console/calls/{rows[0]['id']}"


def test_a_manager_finds_a_call_hears_it_and_corrects_it_for_good(
    site: ApiSite, complete: int, chromium: Browser
) -> None:
    with opened(chromium, site) as page:
        page.click(f"a[href='/console/campaigns/{complete}']")
        page.select_option("select[name=status]", "Succeeded")
        page.click("form.filters button")
        page.click("tbody tr >> nth=0 >> a")
        address = page.url
        audio = page.locator("audio")
        until(page, "document.querySelector('audio').readyState >= 1")
        length = audio.evaluate("audio => audio.duration")
        assert length > 0
        # From its middle on: the server sends a part of it.
        audio.evaluate("(audio, to) => { audio.currentTime = to }", length / 2)
        until(page, "!document.querySelector('audio').seeking")
        assert audio.evaluate("audio => audio.currentTime") == pytest.approx(length / 2, abs=0.1)
        page.click("summary")
        page.check("input[name=is_interested][value='1']")
        page.fill("textarea", "想看七座版，周六到店")
        page.click("form.correct button")
        expect(page.locator("section .card >> nth=0")).to_contain_text("想看七座版，周六到店")
        expect(page.locator("main")).to_contain_text(NAME)
        page.goto(f"/console/campaigns/{complete}/analyse-again")
        expect(page.locator("form.card")).to_contain_text("12 calls are put to the model again")
        page.click("form.card button >> nth=0")
        page.wait_for_url(f"**/campaigns/{complete}*")
        kept = "SELECT 1 FROM call_analyses WHERE task_id = %s AND outcome = 'kept'"
        wait_until(lambda: bool(site.sql(kept, complete)), 60, "the calls are judged again", interval=0.2)
        page.goto(address)
        expect(page.locator("section .card >> nth=0")).to_contain_text("想看七座版，周六到店")
        page.goto(f"/console/campaigns/{complete}?edited=1")
        with page.expect_download() as download:
            page.click("text=CSV")
        text = download.value.path().read_text("utf-8-sig")
        assert text.count("\n") == 2 and "想看七座版，周六到店" in text


def test_keys_turn_the_pages_and_find_a_judgement_right(site: ApiSite, complete: int, chromium: Browser) -> None:
    with opened(chromium, site) as page:
        page.goto(f"/console/campaigns/{complete}")
        first = page.locator("tbody a >> nth=0").get_attribute("href")
        second = page.locator("tbody a >> nth=1").get_attribute("href")
        page.goto(str(first))
        page.keyboard.press("ArrowRight")
        page.wait_for_url(f"**{second}")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url(f"**{first}")
        page.keyboard.press("r")
        expect(page.locator("main")).to_contain_text("confirmed")
        page.goto("/console/campaigns")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#main"


def test_a_key_that_is_held_down_confirms_no_further_call(site: ApiSite, chromium: Browser) -> None:
    task_id = site.completed()
    site.sql("UPDATE call_analyses SET evidence = '' WHERE task_id = %s", task_id)
    right = "SELECT list_id FROM call_corrections WHERE task_id = %s"
    with opened(chromium, site) as page:
        page.goto(f"/console/campaigns/{task_id}?to_read=1&sort=worth")
        first, second = (page.locator(f"tbody a >> nth={place}").get_attribute("href") for place in (0, 1))
        page.goto(str(first))
        page.keyboard.down("r")
        page.wait_for_url(f"**{second}")
        for _ in range(3):
            page.keyboard.down("r")
            page.wait_for_timeout(100)
        assert len(site.sql(right, task_id)) == 1 and page.url.endswith(str(second))
        page.keyboard.up("r")
        page.keyboard.press("r")
        wait_until(lambda: page.wait_for_timeout(50) or len(site.sql(right, task_id)) == 2, 60, "it is pressed anew")  # type: ignore[func-returns-value]


def test_keys_can_be_turned_off_and_scroll_where_no_call_is_shown(
    site: ApiSite, complete: int, chromium: Browser
) -> None:
    with opened(chromium, site, width=390) as page:
        page.goto(f"/console/campaigns/{complete}")
        # A page that has another one behind it.
        page.evaluate(
            "document.querySelector('main').insertAdjacentHTML('beforeend', '<a rel=next href=nowhere>More</a>')"
        )
        address = page.url
        page.focus("#calls")
        page.keyboard.press("ArrowRight")
        until(page, "document.getElementById('calls').scrollLeft > 0")
        assert page.url == address
        said = "SELECT id FROM call_corrections WHERE task_id = %s"
        before = site.sql(said, complete)
        page.goto(f"/console/campaigns/{complete}")
        page.click("tbody tr >> nth=1 >> a")
        page.wait_for_url("**/console/calls/*")
        call = page.url
        page.uncheck("#keys")
        page.reload()
        assert not page.is_checked("#keys")
        for key in ("ArrowRight", "ArrowLeft", "r"):
            page.keyboard.press(key)
            page.wait_for_timeout(100)
        assert page.url == call and site.sql(said, complete) == before
        page.check("#keys")
        page.keyboard.press("ArrowRight")
        page.wait_for_url(lambda url: url != call)


def test_a_link_signs_in_but_replaces_nobody_unasked(site: ApiSite, chromium: Browser) -> None:
    context = chromium.new_context(base_url=site.url)
    page = context.new_page()
    page.goto(f"/console/sign-in#{TOKEN}")
    page.wait_for_url("**/console/campaigns")
    expect(page.locator("header")).to_contain_text("org7")
    page.goto(f"/console/sign-in#{quote(OTHER_TOKEN)}")
    expect(page.locator("main")).to_contain_text("signed in already, for org7")
    page.wait_for_timeout(300)
    assert page.url.endswith("/sign-in") and "org7" in str(page.text_content("header"))
    page.click("main form button")
    page.wait_for_url("**/console/campaigns")
    expect(page.locator("header")).to_contain_text("org8")
    context.close()


def test_a_slow_server_is_asked_by_one_request_at_a_time(site: ApiSite, chromium: Browser) -> None:
    with opened(chromium, site) as page:
        asked: list[Route] = []

        def answered(route: Route) -> None:
            if route.request.resource_type == "document":
                said = route.fetch()
                route.fulfill(response=said, body=said.text().replace("<body", "<body data-live"))
            else:
                asked.append(route)

        page.route("**/console/campaigns", answered)
        page.clock.install()
        page.goto("/console/campaigns")
        for _ in range(4):
            page.clock.run_for(4_100)
            page.wait_for_timeout(100)
        assert len(asked) == 1, "asked again before the answer"
        said = asked[0].fetch()
        asked[0].fulfill(response=said, body=said.text().replace("<body", "<body data-live"))
        page.wait_for_timeout(300)
        page.clock.run_for(4_100)
        page.wait_for_timeout(100)
        assert len(asked) == 2
        page.unroute_all(behavior="ignoreErrors")


def test_pages_work_without_scripts(site: ApiSite, complete: int, chromium: Browser) -> None:
    context = chromium.new_context(java_script_enabled=False, base_url=site.url)
    page = context.new_page()
    page.goto("/console/")
    page.fill("#token", TOKEN)
    page.click("main button")
    page.click(f"a[href='/console/campaigns/{complete}']")
    page.click("tbody tr >> nth=0 >> a")
    expect(page.locator("h1")).to_be_visible()
    context.close()


@pytest.mark.parametrize(
    ("language", "scheme", "width"), [("zh-CN", "light", 1280), ("en-GB", "dark", 1280), ("zh-CN", "dark", 390)]
)
def test_axe_finds_nothing(
    site: ApiSite, complete: int, chromium: Browser, language: str, scheme: str, width: int
) -> None:
    with opened(chromium, site, language=language, scheme=scheme, width=width) as page:
        campaign, call = f"/console/campaigns/{complete}", a_call(site, complete)
        pages = ("/console/campaigns", campaign, f"{campaign}?to_read=1", call, f"{campaign}/cancel")
        for path in (*pages, "/console/sign-in", f"{campaign}/analyse-again"):
            page.goto(path)
            if page.locator("details").count():
                page.evaluate("document.querySelector('details').open = true")
            faultless(page)
        # What it would say now, call by call.
        page.click("main form button.quiet")
        expect(page.locator("main table")).to_be_visible()
        faultless(page)


@pytest.mark.parametrize(("language", "scheme"), [("zh-CN", "light"), ("en-GB", "dark")])
def test_axe_finds_nothing_where_something_is_refused(
    site: ApiSite, chromium: Browser, language: str, scheme: Literal["light", "dark"]
) -> None:
    context = chromium.new_context(
        locale=language, color_scheme=scheme, viewport={"width": 390, "height": 900}, base_url=site.url
    )
    page = context.new_page()
    page.goto("/console/sign-in")
    faultless(page)
    page.fill("#token", "wrong")
    page.click("main button")
    expect(page.locator("[role=alert]")).to_be_visible()
    faultless(page)
    page.fill("#token", TOKEN)
    page.click("main button")
    page.wait_for_url("**/console/campaigns")
    page.goto("/console/calls/999999")
    expect(page.locator("[role=alert]")).to_be_visible()
    faultless(page)
    context.close()


def faultless(page: Page) -> None:
    found = Axe().run(page)
    assert not found.violations_count, f"{page.url}: {found.generate_report()}"
    # Nothing sticks out of a small screen.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url


def test_script_in_what_was_said_does_not_run(site: ApiSite, chromium: Browser) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    task_id = site.completed(task_name=attack[:60])
    site.sql("UPDATE leads_task_list SET leads_name = %s WHERE task_id = %s", attack[:40], task_id)
    said = "JSON_ARRAY(JSON_OBJECT('Speaker', 'Contact', 'Script', %s))"
    site.sql(f"UPDATE leads_task_list SET call_conversation = {said} WHERE task_id = %s", attack, task_id)
    with opened(chromium, site) as page:
        call = site.sql("SELECT MAX(id) AS id FROM leads_task_list WHERE task_id = %s", task_id)[0]["id"]
        for path in ("campaigns", f"campaigns/{task_id}", f"calls/{call}"):
            page.goto(f"/console/{path}")
            assert page.title() != "owned" and not page.locator("main img").count(), path
        expect(page.locator(".talk")).to_contain_text("<script>")


def test_a_running_campaign_is_paused_and_resumed_and_moves_by_itself(slow_site: ApiSite, chromium: Browser) -> None:
    task_id = slow_site.create()
    slow_site.done("/start-call-task", {"task_id": task_id})
    paused = "SELECT paused FROM call_task_options WHERE task_id = %s"
    with opened(chromium, slow_site) as page:
        page.goto(f"/console/campaigns/{task_id}")
        for action, state in (("pause", 1), ("resume", 0)):
            page.click(f"a[href$='/{action}']")
            page.click("main form button")
            page.wait_for_url(f"**/campaigns/{task_id}")
            assert slow_site.sql(paused, task_id) == [{"paused": state}]
        # Nobody loads the page again.
        expect(page.locator("#standing")).to_contain_text("complete", timeout=120_000)
