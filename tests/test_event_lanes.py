"""What becomes of a subscription whose receiver, or whose sender, fails (rules 12.3 to 12.6)."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.testing import ActivityEnvironment

import activities.events
from calltasks.database.tables import event_subscriptions, events
from calltasks.errors import WrongUseError
from calltasks.names import EVENTS
from tests.pipeline import ORGANIZATION, Site, Sites, eventually
from tests.programs import Program, own_environment
from tests.receiver import receiving
from tests.test_events import LOOPBACK, Lane, connection, happened, look, subscribe, told, write


@pytest.fixture
async def site(sites: Sites) -> Site:
    return await sites(**LOOPBACK)


@pytest.fixture
async def lane(site: Site) -> Any:
    async with site.calls() as calls, receiving() as receiver:
        yield Lane(site, calls, receiver, await subscribe(site, receiver))


# --- giving up --------------------------------------------------------------------------------------------------------


async def test_what_comes_behind_what_was_given_up_has_as_long(lane: Lane) -> None:
    lane.write(1, 2, 3)
    lane.receiver.always = 500
    await lane.tell()
    lane.later(day=4)
    await lane.tell()
    assert (lane.row()["dead"], lane.row()["position"]) == (1, 1)
    await lane.tell()
    lane.later(day=2)
    await lane.tell()
    assert (lane.row()["dead"], lane.row()["position"]) == (1, 1)
    lane.later(day=2)
    await lane.tell()
    assert (lane.row()["dead"], lane.row()["position"]) == (2, 2)


async def test_one_refusal_after_a_success_gives_nothing_up(lane: Lane) -> None:
    lane.write(1, 2)
    lane.receiver.answers = [500]
    await lane.tell()
    lane.later(day=4)
    lane.receiver.answers = [204, 429]
    assert await lane.tell() == (1, "Http429")
    assert (lane.row()["dead"], lane.row()["position"]) == (0, 1)


async def test_what_is_our_own_fault_is_no_refusal(lane: Lane) -> None:
    lane.write(1)
    lane.receiver.always = 500
    await lane.tell()
    lane.later(day=4)
    lane.site.sql("UPDATE call_event_subscriptions SET url = 'http://10.0.0.1:9/'")
    assert await lane.tell() == (0, "NotAllowed")
    lane.site.sql("UPDATE call_event_subscriptions SET url = %s", lane.receiver.url)
    assert await lane.tell() == (0, "Http500")
    assert (lane.row()["dead"], lane.row()["position"]) == (0, 0)


async def test_time_in_which_no_worker_ran_is_no_time_of_refusals(lane: Lane) -> None:
    lane.write(1)
    lane.receiver.always = 500
    await lane.tell()
    lane.later(day=4)
    assert await lane.calls.database.transaction(event_subscriptions.take_due, 10) == [lane.id]
    assert await lane.tell() == (0, "Http500")
    assert (lane.row()["dead"], lane.row()["position"]) == (0, 0)


async def test_the_oldest_event_that_is_waited_for_is_no_younger_when_it_is_deleted(lane: Lane) -> None:
    lane.write(1, 2)
    lane.receiver.always = 500
    await lane.tell()
    lane.later(day=40)
    lane.site.sql("DELETE FROM call_events WHERE position = 1")
    assert await lane.calls.database.run(event_subscriptions.oldest_age) > 29 * 86_400


# --- what is ours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["JSONDecodeError", "MySQL 1146"])
async def test_a_fault_of_ours_is_shown_without_what_it_is_about_and_waits_for_its_turn(lane: Lane, error: str) -> None:
    lane.write(1)
    await look(lane.calls)
    if error == "JSONDecodeError":
        lane.site.sql("UPDATE call_events SET payload = '13900000001'' is nonsense'")
    else:
        lane.site.sql("UPDATE call_event_subscriptions SET personal_data = 1")
        lane.site.sql("UPDATE call_events SET payload = JSON_SET(payload, '$.leads_follow_id', 7)")
        lane.site.sql("RENAME TABLE call_analyses TO away")
    done = await ActivityEnvironment().run(lane.delivery.deliver_events, lane.id)
    assert (done.events, done.error) == (0, error)
    row = lane.row()
    assert (row["last_error"], row["failures"], row["failing_since"], row["position"]) == (error, 1, None, 0)
    assert row["due_in"] > 60 and not lane.receiver.requests


# --- beginning --------------------------------------------------------------------------------------------------------


async def test_what_was_being_written_as_somebody_subscribed_is_told(site: Site) -> None:
    writer = connection(site)
    write(writer, 1)
    async with site.calls() as calls, receiving() as receiver:
        lane = Lane(site, calls, receiver, await subscribe(site, receiver))
        writer.commit()
        assert await lane.tell() == (1, "")
    writer.close()


async def test_a_replay_beside_a_request_under_way_begins_where_it_says(lane: Lane) -> None:
    lane.write(1, 2)
    await look(lane.calls)
    found = await lane.calls.database.run(event_subscriptions.next_portion, lane.id, 500)
    assert found is not None
    subscription, sent = found
    await lane.calls.events.replay(ORGANIZATION, lane.id, datetime(2026, 1, 1, tzinfo=UTC))
    assert not await lane.calls.database.run(event_subscriptions.delivered, subscription, sent)
    await lane.calls.database.run(event_subscriptions.failed, subscription, sent, "Http500", 100.0)
    await lane.calls.database.run(event_subscriptions.end, subscription, "Http410")
    row = lane.row()
    assert (row["position"], row["failures"], row["last_error"], row["ended_at"]) == (0, 0, "", None)
    assert await lane.tell() == (2, "")


async def test_an_organisation_has_no_more_than_so_many(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_subscriptions, "MOST", 2)
    await subscribe(lane.site, lane.receiver)
    with pytest.raises(WrongUseError, match="at most 2 subscriptions"):
        await subscribe(lane.site, lane.receiver)
    other = await subscribe(lane.site, lane.receiver, "org8")
    await lane.calls.events.unsubscribe(ORGANIZATION, lane.id)
    assert await subscribe(lane.site, lane.receiver) > other


# --- one beside others ------------------------------------------------------------------------------------------------


async def test_a_long_history_does_not_keep_others_waiting(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PORTION", 10)
    lane.write(*range(100))
    secret, other = lane.receiver.secret, await subscribe(lane.site, lane.receiver, "org8")
    writer = connection(lane.site)
    with writer.cursor() as cursor:
        events.emit(cursor, [happened(1000)], "org8")
    writer.commit()
    writer.close()
    due = await ActivityEnvironment().run(lane.delivery.watch_events, 10)
    given = lane.site.sql("SELECT COUNT(position) AS n FROM call_events WHERE organization_id = %s", ORGANIZATION)
    assert sorted(due) == sorted([lane.id, other]) and 0 < given[0]["n"] < 100
    lane.receiver.secret = secret
    assert await lane.tell() == (100, "")


async def test_the_run_restarts_as_new_beside_a_receiver_that_hangs(
    restarting_sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities.events, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr("calltasks.events.receivers.SECONDS", 55)
    monkeypatch.setattr("worker.SHUTDOWN", timedelta(seconds=1))
    site = await restarting_sites(**LOOPBACK)
    async with receiving() as hanging, receiving() as quick, site.working():
        hanging.always = 50.0
        for receiver in (hanging, quick):
            await subscribe(site, receiver)
        writer = connection(site)
        for number in range(12):
            write(writer, number)
            writer.commit()
            await eventually(partial(told, quick, number + 1))
        writer.close()
        statuses = [run.status for run in await site.runs(f"WorkflowId = '{EVENTS}'")]
        assert WorkflowExecutionStatus.CONTINUED_AS_NEW in statuses and not hanging.seen, "nobody waited for it"


async def test_a_worker_that_is_started_has_receivers_told_whoever_stopped_that(sites: Sites, tmp_path: Path) -> None:
    site = await sites(**LOOPBACK)
    async with receiving() as receiver:
        await subscribe(site, receiver)
        await site.client.get_workflow_handle(EVENTS).terminate()
        worker = Program({**own_environment(), **site.environment}, tmp_path / "worker", "worker.py")
        worker.start()
        writer = connection(site)
        write(writer, 1)
        writer.commit()
        writer.close()
        await eventually(lambda: told(receiver, 1))
        assert worker.stop() == 0


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_a_secret_whose_key_is_gone_is_replaced(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await sites(**LOOPBACK, PAYLOAD_ENCRYPTION_KEYS=f"k1:{'A' * 43}=")
    async with site.calls() as calls, receiving() as receiver:
        lane = Lane(site, calls, receiver, await subscribe(site, receiver))
        monkeypatch.setenv("PAYLOAD_ENCRYPTION_KEYS", f"k2:{'B' * 43}=")
        lane.write(1)
        assert await lane.tell() == (0, "Secret")
        assert lane.row()["due_in"] > 60
        receiver.secret = (await calls.events.rotate(ORGANIZATION, lane.id)).secret
        assert lane.row()["due_in"] <= 0, "it is tried at once"
        assert await lane.tell() == (1, "")


async def test_a_rotation_that_is_done_twice_after_a_lost_answer_keeps_the_old_secret(lane: Lane) -> None:
    old = lane.row()["secret"]
    for _ in range(2):
        assert await lane.calls.database.run(event_subscriptions.rotate, ORGANIZATION, lane.id, "whsec_bmV3")
    assert (lane.row()["secret"], lane.row()["old_secret"]) == ("whsec_bmV3", old)


async def test_a_subscription_that_is_made_twice_after_a_lost_answer_is_one(lane: Lane) -> None:
    how: dict[str, Any] = {"url": lane.receiver.url, "kinds": ["task.complete"], "batch": False, "since": None}
    made = {
        await lane.calls.database.transaction(
            event_subscriptions.add, ORGANIZATION, **how, personal_data=False, secret="whsec_b25l"
        )
        for _ in range(2)
    }
    assert len(made) == 1 and lane.id not in made
