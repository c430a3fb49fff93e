"""A trial (`force-analyze --dry-run`) says what the re-analysis that follows it writes, over every kind of row."""

import json
from datetime import datetime
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.follow_ups import AgainRequest, FollowUpRequest, FollowUps
from calltasks.call_tasks import CallTasks
from calltasks.errors import PermanentError
from calltasks.judging import MODEL_FAILED
from calltasks.model.analysis import Completion
from calltasks.rules.reanalysis import Reanalysis
from calltasks.rules.row_ranges import pack
from calltasks.trial import FIELDS, try_out
from tests.pipeline import ORGANIZATION, Site, Sites, phone

CALLED = datetime(2026, 3, 10, 15, 20)
JUDGED = ("plain", "same", "edited", "edited time", "deleted", "refused", "unreadable", "silent", "relinked")
"""Rows that have their first follow-up."""
NEW = ("new", "new refused", "new unreadable", "new silent", "word")
REFUSED, UNREADABLE = ("refused", "new refused"), ("unreadable", "new unreadable")


class Fickle:
    """Judges by the kind of row that is named in the call, and otherwise from the second time on."""

    name = "fickle"
    fallback, version, under_way = "", "1", 50
    second = None

    def __init__(self) -> None:
        self.later = False

    async def complete(self, *, system: str, user: str, tenant: str) -> Completion:
        kind = user.split("「")[1].split("」")[0]
        if self.later and kind in REFUSED:
            raise PermanentError("DashScope", "completion", "DataInspectionFailed")
        changed = self.later and kind != "same"
        said = {"leads_remark": f"{kind}，{'再' if changed else '初'}次判断", "is_interested": 2 if changed else 1}
        text = "no" if self.later and kind in UNREADABLE else json.dumps(said, ensure_ascii=False)
        return Completion(model=self.name, text=text, input_tokens=100, output_tokens=10)


def rows_of(site: Site) -> tuple[int, dict[str, int]]:
    """A task with a row of each kind, and their ids."""
    task_id = site.old_task([], [], task_type=4)
    kinds = (*JUDGED, *NEW)
    for number, kind in enumerate(kinds, 1):
        row: dict[str, Any] = {
            "task_id": task_id,
            "leads_id": number,
            "leads_phone": phone(number),
            "call_job_id": f"job-{number}",
        }
        talk = [{"Speaker": "Contact", "Script": f"「{kind}」"}]
        row |= {"call_status": "Succeeded", "call_conversation": json.dumps(talk, ensure_ascii=False)}
        if "silent" in kind:
            row |= {"call_status": "Failed", "call_conversation": ""}
        site.insert("leads_task_list", [row | {"updated_time": CALLED}])
    return task_id, dict(zip(kinds, [row["id"] for row in site.rows(task_id)], strict=True))


def edit(site: Site, ids: dict[str, int]) -> None:
    """What people and other programs do."""
    follow_ups = {row["id"]: row["leads_follow_id"] for row in site.sql("SELECT * FROM leads_task_list")}
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '客户已到店' WHERE id = %s", follow_ups[ids["edited"]])
    site.sql(
        "UPDATE dcc_leads_follow SET next_follow_time = '2026-12-01 09:00' WHERE id = %s",
        follow_ups[ids["edited time"]],
    )
    site.sql("DELETE FROM dcc_leads_follow WHERE id = %s", follow_ups[ids["deleted"]])
    lost = "UPDATE leads_task_list SET leads_follow_id = NULL, is_interested = NULL WHERE id = %s"
    site.sql(lost, ids["relinked"])
    site.sql("UPDATE leads_task_list SET is_interested = 0 WHERE id = %s", ids["word"])


def standing(site: Site, task_id: int) -> dict[int, tuple[Any, ...] | None]:
    """What each row's follow-up says, in the order of FIELDS; None where there is none."""
    follow_ups = site.follow_ups()
    found: dict[int, tuple[Any, ...] | None] = {}
    for row in site.rows(task_id):
        one = follow_ups.get(row["leads_follow_id"])
        found[row["id"]] = (row["is_interested"], one["next_follow_time"], one["leads_remark"]) if one else None
    return found


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 440])
async def test_a_trial_says_what_is_written(sites: Sites, override: bool, max_tokens: int | None) -> None:
    site = await sites()
    task_id, ids = rows_of(site)
    model: Any = Fickle()
    first: dict[str, Any] = {
        "task_id": task_id,
        "organization_id": ORGANIZATION,
        "rows": pack([ids[kind] for kind in JUDGED]),
        "retry_interval": 0,
        "conversation_grace": 0,
    }
    async with CallTasks.connect(temporal=False) as calls:
        await calls.database.prepare()
        follow_ups = FollowUps(calls.database, model)
        await ActivityEnvironment().run(follow_ups.follow_up, FollowUpRequest(**first))
        edit(site, ids)
        model.later = True
        before = standing(site, task_id)
        request = Reanalysis(all=True, override=override, max_tokens=max_tokens)
        trial = await try_out(calls.database, model, await calls.task(task_id), request, lambda selected: None)
        assert standing(site, task_id) == before
        again: dict[str, Any] = {**first, "rows": pack(ids.values()), "request_id": "r", "last_try": True}
        done = await ActivityEnvironment().run(
            follow_ups.analyse_again, AgainRequest(**again, override=override, max_tokens=max_tokens)
        )
    after = standing(site, task_id)
    expected, names = dict(before), {id_: kind for kind, id_ in ids.items()}
    for change in trial.changes:
        if change.action in ("create", "update", "same"):
            expected[change.list_id] = tuple(getattr(change.after, name) for name in FIELDS)
    if max_tokens is None:
        assert trial.selected == len(trial.changes) == len(ids)
        assert trial.by_action.get("keep", 0) == done.kept_edits == (0 if override else 3)
        assert {names[id_]: one for id_, one in after.items()} == {names[id_]: one for id_, one in expected.items()}
        assert [one and one[2] for one in (after[ids["refused"]], after[ids["new refused"]])] == [
            "refused，初次判断",
            MODEL_FAILED,
        ]
    assert (trial.over_ceiling, trial.input_tokens) == (done.over_ceiling, done.input_tokens)
