"""Events: written with what they tell, told once it is committed, in order, to whoever asked (rule 12)."""

import json
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import pymysql
import pytest
from pymysql.cursors import Cursor
from temporalio.client import WorkflowExecutionStatus

import activities.events
from activities.events import Delivery
from calltasks.call_tasks import CallTasks
from calltasks.database.tables import event_subscriptions, events
from calltasks.database.tables.events import Event
from calltasks.errors import UnknownSubscriptionError, WrongUseError
from calltasks.names import EVENTS
from simulators import SimulatorOptions
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, eventually
from tests.receiver import Receiver, in_order, receiving

LOOPBACK = {"EVENTS_NETWORKS": "127.0.0.0/8"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activities.events, "LOOK_SECONDS", 0.1)


async def subscribe(site: Site, receiver: Receiver, organization: str = ORGANIZATION, **how: Any) -> int:
    async with site.calls() as calls:
        made = await calls.events.subscribe(organization, receiver.url, **how)
    receiver.secret = made.secret
    return made.id


async def test_a_campaign_is_told_from_its_first_call_to_its_end(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, refusal_rate=0), **LOOPBACK)
    site.add_leads(30)
    task_id = await site.create_task()
    async with receiving() as singly, receiving() as together, receiving() as other, site.working():
        await subscribe(site, singly)
        await subscribe(site, together, batch=True, personal_data=True, kinds=["follow_up.written", "task.complete"])
        await subscribe(site, other, "org8")
        await site.run(task_id)
        await eventually(lambda: told(singly, 33))
        await eventually(lambda: told(together, 31))
        async with site.calls() as calls:
            shown = await calls.events.subscriptions(ORGANIZATION)
    kinds = [event["type"] for event in singly.events]
    assert (kinds[0] == "task.calling" and kinds[-2:] == ["task.calls_complete", "task.complete"]) or kinds[-1] == (
        "task.complete"
    )
    assert kinds.count("follow_up.written") == 30 and in_order(singly.events) and in_order(together.events)
    assert all(json.loads(request["body"])["type"] != "batch" for request in singly.requests)
    rows = {row["id"]: row for row in site.rows(task_id)}
    for event in singly.of("follow_up.written"):
        data, row = event["data"], rows[event["data"]["list_id"]]
        assert data["leads_follow_id"] == row["leads_follow_id"] and data["is_interested"] == row["is_interested"]
        assert data["call_job_id"] == row["call_job_id"] and data["leads_id"] == row["leads_id"]
        assert not {"leads_remark", "evidence"} & set(data)
    remarks = {row["id"]: row["leads_remark"] for row in site.follow_ups().values()}
    for event in together.of("follow_up.written"):
        assert event["data"]["leads_remark"] == remarks[event["data"]["leads_follow_id"]]
    assert any(event["data"].get("evidence") for event in together.events)
    assert together.of("task.complete") and not together.of("task.calling")
    assert [event["id"] for event in together.of("task.complete")] == [
        event["id"] for event in singly.of("task.complete")
    ]
    assert other.requests == [] and singly.problems == together.problems == []
    assert (shown[0]["state"], shown[0]["waiting"], shown[0]["delivered"]) == ("active", 0, 33)
    assert "whsec_" not in json.dumps(shown)


async def told(receiver: Receiver, count: int) -> bool:
    return len(receiver.seen) >= count


async def test_what_is_judged_again_and_what_fails_is_told(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1.0), **LOOPBACK)
    site.add_leads(3)
    task_id = await site.create_task()
    async with receiving() as receiver, site.working():
        await subscribe(site, receiver, batch=True)
        await site.run(task_id)
        async with site.calls() as calls:
            await calls.force_analyze(task_id, every=True)
            await eventually(lambda: told(receiver, 9))
            await eventually(lambda: rewritten(receiver, 3))
    again = receiver.of("follow_up.rewritten")
    assert {event["data"]["list_id"] for event in again} == {row["id"] for row in site.rows(task_id)}
    assert in_order(receiver.events)


async def rewritten(receiver: Receiver, count: int) -> bool:
    return len(receiver.of("follow_up.rewritten")) == count


async def test_a_run_that_needs_a_person_is_told(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True), **LOOPBACK, ALIBABA_CLOUD_ACCESS_KEY_SECRET="wrong")
    site.add_leads(2)
    task_id = await site.create_task()
    async with receiving() as receiver, site.working():
        await subscribe(site, receiver)
        async with site.calls() as calls:
            await calls.start_call(task_id, QUICK)
        await eventually(lambda: told(receiver, 1))
    assert [(event["type"], event["data"]) for event in receiver.events] == [
        ("task.failed", {"task_id": task_id, "reason": "PlatformRefused"})
    ]


# --- order ----------------------------------------------------------------------------------------------------------


def happened(number: int, organization: str = ORGANIZATION, task_id: int = 1) -> Event:
    return Event(kind="follow_up.written", task_id=task_id, fact=(number,), data={"list_id": number})


@pytest.fixture
async def site(sites: Sites) -> Site:
    return await sites(**LOOPBACK)


def write(connection: "pymysql.Connection[Any]", *numbers: int) -> None:
    with connection.cursor() as cursor:
        events.emit(cursor, [happened(number) for number in numbers], ORGANIZATION)


async def look(calls: CallTasks) -> list[int]:
    """What the deliverer sees, in its order."""
    while await calls.database.transaction(events.give_positions, ORGANIZATION):
        pass
    return await calls.database.run(_seen)


def _seen(cursor: Cursor) -> list[int]:
    cursor.execute("SELECT payload FROM call_events WHERE position IS NOT NULL ORDER BY position")
    return [json.loads(row[0])["list_id"] for row in cursor.fetchall()]


def connection(site: Site) -> "pymysql.Connection[Any]":
    from sqlalchemy import make_url

    url = make_url(site.environment["DATABASE_URL"])
    link = pymysql.connect(
        host=url.host, port=url.port or 0, user=url.username, password=url.password or "", database=url.database
    )
    with link.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return link


async def test_what_is_committed_late_is_not_passed_over_and_what_is_rolled_back_is_not_told(site: Site) -> None:
    late, soon, never = connection(site), connection(site), connection(site)
    async with site.calls() as calls, receiving() as receiver:
        await subscribe(site, receiver)
        write(late, 1)
        write(never, 2)
        write(soon, 3)
        soon.commit()
        assert await look(calls) == [3], "who writes longer is waited for by nobody"
        never.rollback()
        write(soon, 4)
        soon.commit()
        late.commit()
        assert await look(calls) == [3, 1, 4]
        write(soon, 1, 3, 5)
        soon.commit()
        assert await look(calls) == [3, 1, 4, 5], "the same fact is the same event"
    for link in (late, soon, never):
        link.close()


async def test_who_was_frozen_while_giving_positions_holds_up_its_organisation_alone(site: Site) -> None:
    frozen, writer = connection(site), connection(site)
    async with site.calls() as calls, receiving() as receiver:
        await subscribe(site, receiver)
        write(writer, 1)
        writer.commit()
        with frozen.cursor() as cursor:
            assert not events.give_positions(cursor, ORGANIZATION)
        write(writer, 2)
        writer.commit()
        assert await look(calls) == []
        frozen.commit()
        assert await look(calls) == [1, 2]
    for link in (frozen, writer):
        link.close()


async def test_events_are_kept_for_thirty_days(site: Site) -> None:
    writer = connection(site)
    write(writer, *range(2500))
    writer.commit()
    site.sql("UPDATE call_events SET created_at = UTC_TIMESTAMP(6) - INTERVAL 31 DAY ORDER BY id LIMIT 2100")
    async with site.calls() as calls:
        assert await calls.database.run(events.forget) is True
        assert await calls.database.run(events.forget) is False
    assert site.sql("SELECT COUNT(*) AS n FROM call_events")[0]["n"] == 400
    writer.close()


# --- what receivers do ------------------------------------------------------------------------------------------------


class Lane:
    """One subscription, told by hand."""

    def __init__(self, site: Site, calls: CallTasks, receiver: Receiver, id_: int) -> None:
        self.site, self.calls, self.receiver, self.id = site, calls, receiver, id_
        self.delivery = Delivery(calls.database, calls.clients.receivers)

    def write(self, *numbers: int) -> None:
        writer = connection(self.site)
        write(writer, *numbers)
        writer.commit()
        writer.close()

    async def tell(self) -> tuple[int, str]:
        from temporalio.testing import ActivityEnvironment

        await look(self.calls)
        done = await ActivityEnvironment().run(self.delivery.deliver_events, self.id)
        return done.events, done.error

    def row(self) -> dict[str, Any]:
        return self.site.sql(
            "SELECT *, TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(6), due_at) AS due_in FROM call_event_subscriptions"
            " WHERE id = %s",
            self.id,
        )[0]

    def later(self, **interval: int) -> None:
        """As if so much time had passed."""
        (unit, count), *_ = interval.items()
        for column in ("due_at", "failing_since", "old_until", "since"):
            self.site.sql(
                f"UPDATE call_event_subscriptions SET {column} = {column} - INTERVAL %s {unit.upper()}", count
            )
        self.site.sql(f"UPDATE call_events SET created_at = created_at - INTERVAL %s {unit.upper()}", count)


@pytest.fixture
async def lane(site: Site) -> Any:
    async with site.calls() as calls, receiving() as receiver:
        yield Lane(site, calls, receiver, await subscribe(site, receiver))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (500, "Http500"),
        (404, "Http404"),
        ((302, {"location": "http://127.0.0.1:9/"}), "Http302"),
        (304, "Http304"),
        ("cut", "ServerDisconnectedError"),
        ("cut-before", "ServerDisconnectedError"),
    ],
)
async def test_what_is_not_taken_is_told_again_under_the_same_id(lane: Lane, answer: Any, error: str) -> None:
    lane.write(1, 2)
    lane.receiver.answers = [answer]
    assert await lane.tell() == (0, error)
    row = lane.row()
    assert (row["failures"], row["last_error"], row["position"]) == (1, error, 0) and 3 <= row["due_in"] <= 6
    lane.later(second=10)
    assert await lane.tell() == (2, "")
    assert (lane.row()["failures"], lane.row()["last_error"], lane.row()["delivered"]) == (0, "", 2)
    assert [event["data"]["list_id"] for event in lane.receiver.events] == [1, 2]
    ids = [request["headers"]["webhook-id"] for request in lane.receiver.requests]
    assert len(lane.receiver.requests) == 3 and ids[0] == ids[1] != ids[2]


async def test_pauses_grow_to_hours(lane: Lane) -> None:
    lane.write(1)
    lane.receiver.always = 503
    pauses = []
    for _ in range(15):
        await lane.tell()
        pauses.append(lane.row()["due_in"])
    assert all(after > before for before, after in pairwise(pauses[:11]))
    assert all(3 * 3600 < pause < 5 * 3600 for pause in pauses[-3:])
    assert len(lane.receiver.requests) == 15


@pytest.mark.parametrize(("wish", "least", "most"), [("77", 75, 77), ("99999999", 86_000, 86_400), ("nonsense", 3, 6)])
async def test_a_wish_to_be_left_alone_is_honoured(lane: Lane, wish: str, least: int, most: int) -> None:
    lane.write(1)
    lane.receiver.answers = [(429, {"retry-after": wish})]
    assert await lane.tell() == (0, "Http429")
    assert least <= lane.row()["due_in"] <= most


async def test_a_receiver_that_is_gone_is_told_no_more_until_it_asks_again(lane: Lane) -> None:
    lane.write(1)
    lane.receiver.answers = [410]
    assert await lane.tell() == (0, "Http410")
    assert await lane.tell() == (0, "")
    assert len(lane.receiver.requests) == 1
    shown = await lane.calls.events.subscriptions(ORGANIZATION)
    assert (shown[0]["state"], shown[0]["last_error"]) == ("ended", "Http410")
    await lane.calls.events.replay(ORGANIZATION, lane.id, datetime(2026, 1, 1, tzinfo=UTC))
    assert await lane.tell() == (1, "")


async def test_what_is_refused_for_days_is_given_up_shown_and_told_again_on_request(lane: Lane) -> None:
    lane.write(*range(20))
    lane.receiver.always = 500
    await lane.tell()
    lane.later(day=4)
    lane.write(100)
    await lane.tell()
    shown = await lane.calls.events.subscriptions(ORGANIZATION)
    assert (shown[0]["dead"], shown[0]["state"]) == (1, "failing"), "what was never sent was never refused"
    lane.receiver.always = 204
    assert await lane.tell() == (20, "")
    await lane.calls.events.replay(ORGANIZATION, lane.id, datetime(2026, 1, 1, tzinfo=UTC))
    assert await lane.tell() == (21, "")
    assert (await lane.calls.events.subscriptions(ORGANIZATION))[0]["dead"] == 0


async def test_an_event_that_is_never_taken_comes_to_stand_alone_and_is_given_up_alone(lane: Lane) -> None:
    lane.site.sql("UPDATE call_event_subscriptions SET batch = 1")
    lane.write(*range(64))
    lane.receiver.refuses = b'"list_id":40}'
    for _ in range(60):
        await lane.tell()
    assert [event["data"]["list_id"] for event in lane.receiver.events] == list(range(40))
    last = json.loads(lane.receiver.requests[-1]["body"])
    assert [event["data"]["list_id"] for event in last["events"]] == [40]
    lane.later(day=4)
    lane.site.sql("UPDATE call_events SET created_at = UTC_TIMESTAMP(6) WHERE position > 41")
    assert await lane.tell() == (0, "Http400")
    assert await lane.tell() == (23, "")
    assert lane.row()["dead"] == 1 and len(lane.receiver.seen) == 63


async def test_batches_hold_five_hundred_and_no_more_than_a_body_may(lane: Lane) -> None:
    lane.site.sql("UPDATE call_event_subscriptions SET batch = 1")
    lane.write(*range(1200))
    assert await lane.tell() == (1200, "")
    assert len(lane.receiver.requests) == 3 and lane.receiver.requests[0]["headers"]["webhook-id"].startswith("bat_")
    lane.site.sql("UPDATE call_events SET payload = JSON_SET(payload, '$.long', REPEAT('长', 5000))")
    await lane.calls.events.replay(ORGANIZATION, lane.id, datetime(2026, 1, 1, tzinfo=UTC))
    lane.receiver.seen.clear()
    assert await lane.tell() == (1200, "")
    assert max(len(request["body"]) for request in lane.receiver.requests) < 1_000_000
    assert len(lane.receiver.seen) == 1200


async def test_who_was_frozen_does_not_lead_the_lane_back(lane: Lane) -> None:
    lane.write(1, 2, 3)
    await look(lane.calls)
    found = await lane.calls.database.run(event_subscriptions.next_portion, lane.id, 500)
    assert found is not None
    subscription, told_events = found
    assert await lane.tell() == (3, "")
    assert not await lane.calls.database.run(event_subscriptions.delivered, subscription, told_events[:1])
    await lane.calls.database.run(event_subscriptions.failed, subscription, told_events, "Http500", 100.0)
    assert (lane.row()["position"], lane.row()["failures"]) == (3, 0)


async def test_two_secrets_count_for_a_day_after_a_rotation(lane: Lane) -> None:
    old = lane.receiver.secret
    new = (await lane.calls.events.rotate(ORGANIZATION, lane.id)).secret
    assert new != old
    lane.write(1)
    assert await lane.tell() == (1, "")
    lane.receiver.secret = new
    lane.write(2)
    assert await lane.tell() == (1, "")
    assert len(lane.receiver.requests[-1]["headers"]["webhook-signature"].split()) == 2
    lane.later(hour=25)
    lane.write(3)
    assert await lane.tell() == (1, "")
    assert len(lane.receiver.requests[-1]["headers"]["webhook-signature"].split()) == 1


async def test_secrets_are_kept_encrypted_where_there_are_keys(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await sites(**LOOPBACK, PAYLOAD_ENCRYPTION_KEYS=f"k1:{'A' * 43}=")
    async with site.calls() as calls, receiving() as receiver:
        one = Lane(site, calls, receiver, await subscribe(site, receiver))
        stored = one.row()["secret"]
        assert receiver.secret.removeprefix("whsec_") not in stored and stored.startswith("sealed:")
        one.write(1)
        assert await one.tell() == (1, "")
        assert await calls.events.test(ORGANIZATION, one.id) == ""
        monkeypatch.setenv("PAYLOAD_ENCRYPTION_KEYS", "")
        one.write(2)
        assert await one.tell() == (0, "Secret")


async def test_another_organisation_cannot_touch_a_subscription(lane: Lane) -> None:
    events_ = lane.calls.events
    for attempt in (
        events_.unsubscribe("org8", lane.id),
        events_.rotate("org8", lane.id),
        events_.replay("org8", lane.id, datetime(2026, 1, 1, tzinfo=UTC)),
        events_.test("org8", lane.id),
    ):
        with pytest.raises(UnknownSubscriptionError):
            await attempt
    assert await events_.subscriptions("org8") == []
    await events_.unsubscribe(ORGANIZATION, lane.id)
    assert await events_.subscriptions(ORGANIZATION) == []
    with pytest.raises(WrongUseError):
        await events_.subscribe(ORGANIZATION, lane.receiver.url, kinds=["nothing"])


async def test_a_slow_receiver_holds_up_no_other(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calltasks.events.receivers.SECONDS", 3)
    site = await sites(**LOOPBACK)
    async with receiving() as slow, receiving() as quick, site.working():
        slow.always = 30.0
        await subscribe(site, slow)
        await subscribe(site, quick)
        writer = connection(site)
        write(writer, *range(5))
        writer.commit()
        await eventually(lambda: told(quick, 5))
        assert len(slow.requests) <= 1 and not slow.seen
        writer.close()

        async def timed_out() -> bool:
            return bool(site.sql("SELECT 1 FROM call_event_subscriptions WHERE last_error = 'Timeout'"))

        await eventually(timed_out)


# --- the run that tells -----------------------------------------------------------------------------------------------


async def test_the_run_restarts_as_new_and_goes_on_and_the_monitor_starts_it_again(restarting_sites: Sites) -> None:
    site = await restarting_sites(**LOOPBACK)
    async with receiving() as receiver, site.working():
        await subscribe(site, receiver)
        writer = connection(site)
        for number in range(12):
            write(writer, number)
            writer.commit()
            await eventually(partial(told, receiver, number + 1))
        statuses = [run.status for run in await site.runs(f"WorkflowId = '{EVENTS}'")]
        assert WorkflowExecutionStatus.CONTINUED_AS_NEW in statuses
        await site.client.get_workflow_handle(EVENTS).terminate()
        write(writer, 100)
        writer.commit()
        writer.close()
        async with site.calls() as calls:
            await calls.monitor("check")
        await eventually(lambda: told(receiver, 13))
    assert [event["data"]["list_id"] for event in receiver.events] == [*range(12), 100]
