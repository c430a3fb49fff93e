"""How a finished task is compared with the platform's own record of it, and with the labels of its conversations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from simulators.dialogues import SLOTS
from simulators.judge import judge

if TYPE_CHECKING:
    from tests.pipeline import Site

ZONE = ZoneInfo("Asia/Shanghai")
FINAL = ("Succeeded", "Failed", "Cancelled")
REMARKS = {"Failed": "呼叫失败；", "Cancelled": "外呼状态：Cancelled；", "Succeeded": "外呼已完成，但暂无通话内容；"}
MODEL_FAILED = "AI 分析未完成，请人工查看通话记录；"


def wall(milliseconds: int | None) -> datetime | None:
    """A vendor's time as the CRM's columns hold it."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(ZONE).replace(tzinfo=None, microsecond=0)


def assert_finished(site: Site, task_id: int, result: dict[str, Any], *, recordings: bool = True) -> None:
    """The whole task equals the platform's record, row by row; its follow-ups are one to one; its numbers add up."""
    truth = {job["job_id"]: job for job in site.truth(task_id)}
    rows, follow_ups = site.rows(task_id), site.follow_ups()
    called = [row for row in rows if row["call_job_id"]]
    differences = [
        f"row {row['id']} {name}: {found!r} instead of {wanted!r}"
        for row in called
        for name, found, wanted in differing(row, truth[row["call_job_id"]], follow_ups, recordings=recordings)
    ]
    assert not differences, f"{len(differences)} differences\n" + "\n".join(differences[:20])
    jobs = Counter(row["call_job_id"] for row in called)
    assert max(jobs.values(), default=1) == 1, "a job belongs to two rows"
    assert_one_follow_up_a_row(site, task_id)
    assert_numbers(site, task_id, result)
    assert site.stats()["dialled_twice"] == []


def differing(
    row: dict[str, Any], job: dict[str, Any], follow_ups: dict[int, dict[str, Any]], *, recordings: bool = True
) -> Iterator[tuple[str, Any, Any]]:
    """What of a called row, and of its follow-up, is not as the platform's record and the course's label say."""
    found = row | {"call_conversation": turns(row["call_conversation"])}
    wanted = {
        "call_status": job["status"],
        "call_task_id": job["task_id"] or "",
        "calling_number": job["calling_number"] or "",
        "planed_time": wall(job["planed_time"]),
        "updated_time": wall(job["actual_time"]) or row["updated_time"],
        "call_conversation": job["transcript"],
    }
    for name, value in wanted.items():
        if (found[name] or "") != (value or ""):
            yield name, found[name], value
    if row["updated_time"] is None:
        yield "updated_time", None, "a time"
    recorded = recordings and job["recording"] and job["status"] == "Succeeded"
    audio = f"/recordings/{job['task_id']}.wav" if recorded else ""
    url = row["recording_url"] or ""
    if (audio not in url) if audio else (url and recordings):
        yield "recording_url", url, audio
    follow_up = follow_ups.get(row["leads_follow_id"])
    if follow_up is None:
        yield "leads_follow_id", row["leads_follow_id"], "a follow-up"
        return
    interest, remark, when = expected_judgement(row, job)
    if row["is_interested"] != interest:
        yield "is_interested", row["is_interested"], interest
    if follow_up["leads_remark"] != remark:
        yield "leads_remark", follow_up["leads_remark"], remark
    if follow_up["next_follow_time"] != when:
        yield "next_follow_time", follow_up["next_follow_time"], when


def expected_judgement(row: dict[str, Any], job: dict[str, Any]) -> tuple[int, str, datetime | None]:
    """Interest, remark and next time; the interest is the course's label, not what any program made of it."""
    if not job["transcript"]:
        return 0, REMARKS[job["status"]], None
    called = wall(job["actual_time"])
    assert called is not None
    said = [turn["text"] for turn in job["transcript"] if turn["speaker"] == "Contact"]
    subject = next((word for word in SLOTS["model"] if any(word in turn["text"] for turn in job["transcript"])), "")
    judgement = judge(said, called.replace(second=0), subject)
    interest = judgement.interest if job["interest"] is None else job["interest"]
    return interest, judgement.remark, judgement.when


def turns(conversation: str | None) -> list[dict[str, str]]:
    """A stored conversation, in the form of the simulators' record."""
    return [{"speaker": turn["Speaker"], "text": turn["Script"]} for turn in json.loads(conversation or "[]")]


def assert_one_follow_up_a_row(site: Site, task_id: int) -> None:
    """Each called row has one follow-up of its own lead, with its times, and no follow-up is without a row."""
    rows, follow_ups = site.rows(task_id), site.follow_ups()
    linked = Counter(row["leads_follow_id"] for row in rows if row["leads_follow_id"])
    assert max(linked.values(), default=1) == 1, "two rows share a follow-up"
    for row in rows:
        if not row["call_job_id"]:
            assert row["leads_follow_id"] is None and row["is_interested"] is None, row
            continue
        follow_up = follow_ups[row["leads_follow_id"]]
        assert follow_up["leads_id"] == row["leads_id"]
        assert row["is_interested"] in (0, 1, 2)
        for column in ("follow_time", "frist_follow_time", "new_follow_time"):
            assert isinstance(follow_up[column], datetime), column
            assert abs((datetime.now(ZONE).replace(tzinfo=None) - follow_up[column]).total_seconds()) < 600, column
    everywhere = {int(row["leads_follow_id"] or 0) for row in site.sql("SELECT leads_follow_id FROM leads_task_list")}
    assert set(follow_ups) <= everywhere, "a follow-up without a row"


def assert_numbers(site: Site, task_id: int, result: dict[str, Any]) -> None:
    """The result's numbers are those of the tables."""
    rows = site.rows(task_id)
    called = [row for row in rows if row["call_job_id"]]
    interest = Counter(str(row["is_interested"]) for row in called)
    counted = {
        "task_id": task_id,
        "task_type": site.task(task_id)["task_type"],
        "phase": "complete",
        "leads": len(rows),
        "called": len(called),
        "unmatched": len(rows) - len(called),
        "finished": sum(row["call_status"] in FINAL for row in called),
        "by_status": dict(Counter(row["call_status"] for row in rows if row["call_status"])),
        "recordings": sum(bool(row["recording_url"]) for row in called),
        "recordings_missing": sum(
            row["call_status"] == "Succeeded" and bool(row["call_task_id"]) and not row["recording_url"]
            for row in called
        ),
        "follow_ups": sum(bool(row["leads_follow_id"]) for row in called),
        "by_interest": {key: interest[key] for key in "012"},
    }
    wrong = {name: (result[name], value) for name, value in counted.items() if result[name] != value}
    assert not wrong, f"result and tables differ: {wrong}"
    ledger = Counter(
        row["outcome"] for row in site.sql("SELECT outcome FROM call_follow_ups WHERE task_id = %s", task_id)
    )
    assert (result["analysed"], result["analysis_failed"]) == (ledger["analysed"], ledger["failed"])


def assert_nothing_went_back(site: Site, task_id: int) -> None:
    """Every write since `watch_writes`: no status that is not final, no final one or transcript lost, types rise."""
    for write in site.seen_rows():
        old, new = write["old_status"] or "", write["new_status"] or ""
        assert new in ("", *FINAL), f"{new} was written"
        if old and old != new:
            taken_back = old == "Failed" and not new and not write["old_job"] and write["new_job"]
            assert taken_back or (old != "Succeeded" and new == "Succeeded"), f"{old} became {new}"
        assert not write["old_job"] or write["new_job"] == write["old_job"], "a job id was replaced"
        assert len(write["new_text"] or "") >= len(write["old_text"] or ""), "a transcript was lost"
    types = site.seen_types(task_id)
    assert types == sorted(types), types
