"""Running simulators as tests use them: through the vendors' own SDKs and the control interface."""

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import dashscope
import httpx
import pytest
from alibabacloud_outboundbot20191226 import models
from alibabacloud_outboundbot20191226.client import Client
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
from alibabacloud_tea_openapi.utils import Utils
from alibabacloud_tea_openapi.utils_models import Config

from simulators import (
    ACCESS_KEY_ID,
    ACCESS_KEY_SECRET,
    DASHSCOPE_API_KEY,
    INSTANCE_ID,
    Simulators,
)

CALLED = datetime(2026, 11, 18, 14, 5)  # a Wednesday
EMPTY_HASH = Utils.hash(b"", "ACS3-HMAC-SHA256").hex()
http = httpx.Client()  # one for all tests: a client takes 20 ms to make


class SimulatorSite:
    """Running simulators, the platform's SDK pointed at them, and the control interface."""

    def __init__(self, simulators: Simulators) -> None:
        self.simulators = simulators
        self.url = simulators.url
        self.host = simulators.url.removeprefix("http://")
        self.client = self.sdk()

    def sdk(self, key_id: str = ACCESS_KEY_ID, secret: str = ACCESS_KEY_SECRET) -> Any:
        return Client(
            Config(
                access_key_id=key_id,
                access_key_secret=secret,
                endpoint=self.host,
                protocol="http",
                connect_timeout=20_000,
                read_timeout=20_000,
            )
        )

    def control(self, path: str, body: Any = None) -> Any:
        answer = (
            http.get(f"{self.url}/_sim/{path}") if body is None else http.post(f"{self.url}/_sim/{path}", json=body)
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def group(self, name: str = "call-task-1") -> str:
        request = models.CreateJobGroupRequest(instance_id=INSTANCE_ID, job_group_name=name, script_id="s")
        return str(self.client.create_job_group(request).body.job_group.job_group_id)

    def assign(self, group: str, count: int = 99, first: int = 0) -> list[str]:
        jobs = [job_json(number) for number in range(first, first + count)]
        request = models.AssignJobsRequest(instance_id=INSTANCE_ID, job_group_id=group, jobs_json=jobs)
        return list(self.client.assign_jobs(request).body.jobs_id)

    def query(self, group: str, page: int = 1, size: int = 100, **filters: Any) -> Any:
        request = models.QueryJobsWithResultRequest(
            instance_id=INSTANCE_ID, job_group_id=group, page_number=page, page_size=size, **filters
        )
        return self.client.query_jobs_with_result(request).body

    def list_jobs(self, ids: list[str]) -> Any:
        return self.client.list_jobs(models.ListJobsRequest(instance_id=INSTANCE_ID, job_id=ids)).body

    def progress(self, group: str) -> dict[str, int]:
        request = models.DescribeJobGroupRequest(instance_id=INSTANCE_ID, job_group_id=group)
        return dict(self.client.describe_job_group(request).body.job_group.progress.to_map())

    def recording(self, task_id: str) -> Any:
        return self.client.download_recording(
            models.DownloadRecordingRequest(instance_id=INSTANCE_ID, task_id=task_id)
        ).body

    def truth(self, group: str) -> list[dict[str, Any]]:
        return list(self.control(f"groups/{group}/jobs"))


def job_json(number: int) -> str:
    contact = {
        "phoneNumber": f"139{number:08}",
        "name": f"客户 {number}&+~*",
        "referenceId": f"ref{number}",
        "honorific": "女士",
    }
    return json.dumps({"extras": [], "contacts": [contact]}, ensure_ascii=False)


def refused(call: Callable[[], Any]) -> AlibabaCloudException:
    with pytest.raises(AlibabaCloudException) as caught:
        call()
    return caught.value


def signed(site: SimulatorSite, query: dict[str, str], **changed: str) -> tuple[str, dict[str, str]]:
    """A signed request as the SDK makes it: its URL and headers; `changed` replaces headers before signing."""
    request = Utils.__class__("Request", (), {})()
    request.method, request.pathname, request.query = "POST", "/", query
    request.headers = {
        "host": site.host,
        "x-acs-action": "ListJobGroups",
        "x-acs-version": "2019-12-26",
        "x-acs-date": Utils.get_timestamp(),
        "x-acs-signature-nonce": uuid.uuid4().hex,
        "x-acs-content-sha256": EMPTY_HASH,
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    authorization = Utils.get_authorization(request, "ACS3-HMAC-SHA256", EMPTY_HASH, ACCESS_KEY_ID, ACCESS_KEY_SECRET)
    return f"{site.url}/?{urlencode(query)}", {**request.headers, "Authorization": authorization}


def check_job(job: Any, truth: dict[str, Any], seen: dict[str, Any]) -> None:
    assert (job.status, job.reference_id, job.contacts[0].phone_number) == (
        truth["status"],
        truth["reference_id"],
        truth["phone"],
    )
    assert job.contacts[0].contact_name == f"客户 {int(truth['phone'][3:])}&+~*"
    connected = [task for task in job.tasks if task.status.startswith("Succeeded")]
    assert bool(connected) == (job.status == "Succeeded")
    chosen = connected[-1] if connected else job.tasks[-1]
    assert (chosen.task_id, chosen.planed_time, chosen.actual_time, chosen.calling_number) == (
        truth["task_id"],
        truth["planed_time"],
        truth["actual_time"],
        truth["calling_number"],
    )
    spoken = [{"speaker": turn.speaker, "text": turn.script} for turn in chosen.conversation]
    assert spoken == truth["transcript"]
    assert bool(spoken) == (job.status == "Succeeded")
    assert all(left.timestamp < right.timestamp for left, right in pairwise(chosen.conversation))
    assert all(not task.conversation for task in job.tasks if task is not chosen)
    seen["several"] += len(job.tasks) > 1
    seen["trailing"] += bool(connected) and job.tasks[-1] is not connected[-1]
    seen["statuses"] |= {task.status for task in job.tasks}


def prompt_of(turns: list[tuple[str, str]], called: datetime = CALLED) -> str:
    lines = "\n".join(f"{'机器人' if speaker == 'Robot' else '客户'}：{text}" for speaker, text in turns)
    return f"请判断下面的通话，以 json 回答。\n通话时间：{called:%Y-%m-%d %H:%M}\n\n通话记录：\n{lines}\n"


def ask(
    site: SimulatorSite,
    prompt: str,
    *,
    app: bool = False,
    key: str = DASHSCOPE_API_KEY,
    timeout: float = 5,
    model: str = "qwen-plus",
    **parameters: Any,
) -> tuple[str, Any]:
    """The model's text and its usage, through the SDK."""

    async def run() -> tuple[str, Any]:
        made: Any = dashscope.AsyncClient(api_key=key, base_url=f"{site.url}/api/v1", max_retries=0, timeout=timeout)
        async with made as client:
            if app:
                answer = await client.apps.completions.create(app_id="app", prompt=prompt)
                return answer.text, answer.usage.models[0]
            answer = await client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": "你是分析员。"}, {"role": "user", "content": prompt}],
                **{"response_format": {"type": "json_object"}, **parameters},
            )
            return answer.choices[0].message.content, answer.usage

    return asyncio.run(run())
