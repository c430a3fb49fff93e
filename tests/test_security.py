"""Least rights in the database, no secret where it does not belong, pinned requirements."""

import asyncio
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
import pytest

import settings
from devstack import audit
from devstack.mariadb import EmbeddedMariaDB
from simulators import SimulatorOptions
from starter import CallTasks
from tests.pipeline import QUICK, LogLines, Site, Sites, assert_finished, decoded

PROJECT = Path(__file__).resolve().parent.parent


# --- least rights ---------------------------------------------------------------------------------------------------

DENIED = {
    "call-setup": [
        "SELECT * FROM dcc_leads",
        "SELECT COUNT(*) FROM leads_task_list",
        "INSERT INTO call_tasks (organization_id) VALUES ('x')",
        "UPDATE leads_task_list SET leads_phone = ''",
        "DROP TABLE call_retries",
        "ALTER TABLE dcc_leads ADD COLUMN more INT",
        "CREATE USER more",
    ],
    "call-worker": [
        "SELECT leads_user_phone FROM dcc_leads",
        "UPDATE leads_task_list SET leads_phone = ''",
        "UPDATE leads_task_list SET leads_id = 1",
        "INSERT INTO leads_task_list (task_id, leads_id) VALUES (1, 1)",
        "DELETE FROM leads_task_list",
        "UPDATE call_tasks SET organization_id = 'x'",
        "INSERT INTO call_tasks (organization_id) VALUES ('x')",
        "UPDATE dcc_leads_follow SET leads_id = 1",
        "DELETE FROM dcc_leads_follow",
        "DELETE FROM call_follow_ups",
        "UPDATE call_analyses SET leads_remark = ''",
        "DELETE FROM call_analyses",
        "CREATE TABLE more (id INT)",
        "DROP TABLE call_retries",
        "SELECT * FROM mysql.user",
        "GRANT SELECT ON dcc_leads TO CURRENT_USER",
    ],
    "call-backend": [
        "INSERT INTO dcc_leads_follow (leads_id) VALUES (1)",
        "UPDATE dcc_leads_follow SET leads_remark = ''",
        "INSERT INTO call_analyses SELECT * FROM call_analyses",
        "SELECT * FROM call_dispatches",
        "UPDATE leads_task_list SET leads_phone = ''",
        "UPDATE leads_task_list SET leads_follow_id = 1",
        "UPDATE call_tasks SET task_type = 4",
        "DELETE FROM call_tasks",
        "UPDATE dcc_leads SET leads_user_name = ''",
        "CREATE TABLE more (id INT)",
        "SELECT * FROM mysql.user",
    ],
}
REFUSALS = {1044, 1142, 1143, 1227}


@dataclass(frozen=True)
class Users:
    """The users of docs/security.md on a site's database; the names end differently for each database."""

    server: EmbeddedMariaDB
    database: str
    password: str

    def url(self, user: str) -> str:
        name = f"{user}-{self.database[-6:]}"
        return f"mysql+pymysql://{name}:{self.password}@127.0.0.1:{self.server.port}/{self.database}"

    def grant(self, user: str) -> None:
        """Make the user, by the statements of the document."""
        text = (PROJECT / "docs/security.md").read_text("utf-8")
        blocks = "\n".join(re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        mine = [statement.strip() for statement in blocks.split(";") if f"'{user}'@" in statement]
        assert len(mine) >= 2
        with self.server.connect(root=True) as root, root.cursor() as cursor:
            for statement in mine:
                here = statement.replace(f"'{user}'@'%'", f"'{user}-{self.database[-6:]}'@'127.0.0.1'")
                here = re.sub(r"BY '[^']*'", f"BY '{self.password}'", here).replace("crm.", f"`{self.database}`.")
                cursor.execute(here)

    def refused(self, user: str, statement: str) -> bool:
        link = pymysql.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=urlsplit(self.url(user)).username,
            password=self.password,
            database=self.database,
            ssl_disabled=True,
        )
        with link, link.cursor() as cursor:
            try:
                cursor.execute(statement)
            except pymysql.MySQLError as error:
                return error.args[0] in REFUSALS
        return False


async def test_least_rights_are_enough_and_nothing_beyond_is_allowed(
    sites: Sites, mariadb: EmbeddedMariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await sites(SimulatorOptions(calls_over=True, transcript_never=0.1))
    users = Users(mariadb, urlsplit(os.environ["DATABASE_URL"]).path[1:], secrets.token_hex(8))

    def become(user: str) -> None:
        monkeypatch.setenv("DATABASE_URL", users.url(user))

    site.sql("DROP TABLE call_retries, call_analyses")
    site.sql("DROP INDEX idx_job ON leads_task_list")
    users.grant("call-setup")
    become("call-setup")
    async with CallTasks.connect(temporal=False) as calls:
        created = await calls.init_db()
    assert sorted(created) == ["index idx_job on leads_task_list", "table call_analyses", "table call_retries"]

    users.grant("call-worker")
    users.grant("call-backend")
    site.add_leads(40)
    become("call-backend")
    task_id = await site.create_task()
    become("call-worker")
    async with site.working():
        become("call-backend")
        result = await site.run(task_id)
        async with CallTasks.connect() as calls:
            await calls.force_analyze(task_id, every=True)
            async with asyncio.timeout(150):
                while (await calls.progress(task_id))["reanalysed"] < 40:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            # What the platform still knows is written again, a recording too.
            site.sql("UPDATE leads_task_list SET recording_url = NULL, call_conversation = NULL, updated_time = NULL")
            page = await calls.query_task_execution(task_id, skip_recording=False)
            judged = await calls.analyses(page.jobs_data[0]["JobId"])
    assert judged is not None
    assert page.updated_count > 0 and result["outcome"] == "complete" and result["recordings"] > 0
    assert site.task(task_id)["task_type"] == 4

    allowed = [f"{user}: {text}" for user, texts in DENIED.items() for text in texts if not users.refused(user, text)]
    assert allowed == []


# --- no secret in a history -----------------------------------------------------------------------------------------


def secret_values() -> set[str]:
    """Every value in the environment that settings.py calls a secret, and the password within DATABASE_URL."""
    found = set()
    for group in settings._Group.__subclasses__():
        for name, field in group.model_fields.items():
            value = os.environ.get(name.upper(), "")
            if value and "Secret" in str(field.annotation):
                found |= {value, *(part.partition(":")[2] for part in value.split(",") if name.endswith("_keys"))}
    return found | {str(urlsplit(os.environ["DATABASE_URL"]).password)}


async def said_of(site: Site) -> str:
    """All that Temporal stores of the site's runs: histories decoded, what is pending, how it is listed."""
    texts = [decoded(history) for history in await site.histories()]
    async for run in site.client.list_workflows():
        texts.append(str((await site.client.get_workflow_handle(run.id).describe()).raw_description))
    return "\n".join(texts)


async def test_no_secret_is_in_a_history_or_a_log(sites: Sites) -> None:
    site = await sites(
        SimulatorOptions(calls_over=True),
        ALIBABA_CLOUD_SECURITY_TOKEN="a-security-token-for-tests",
        CODEC_SERVER_TOKEN="a-codec-token-for-tests",
    )
    found = secret_values()
    assert len(found) >= 6, "the secrets of the environment are known"
    site.add_leads(20)
    task_id = await site.create_task()
    with LogLines() as log:
        async with site.working():
            result = await site.run(task_id)
    assert_finished(site, task_id, result)
    said = await said_of(site) + "\n".join(log.lines)
    assert f'"task_id":{task_id}' in said.replace(" ", ""), "payloads are decoded"
    assert [secret for secret in found if secret in said] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"ALIBABA_CLOUD_ACCESS_KEY_SECRET": "wrong-secret-of-the-platform"},
        {"DASHSCOPE_API_KEY": "wrong-key-of-the-model"},
    ],
    ids=["platform", "model"],
)
async def test_a_refused_key_is_not_repeated(sites: Sites, wrong: dict[str, str]) -> None:
    """Errors of the vendors' SDKs are the likeliest place for a key to slip out."""
    site = await sites(SimulatorOptions(calls_over=True), **wrong)
    found = secret_values()
    assert set(wrong.values()) < found
    site.add_leads(3)
    task_id = await site.create_task()
    with LogLines() as log:
        async with site.working(), CallTasks.connect() as calls:
            await calls.start_call(task_id, QUICK)
            async with asyncio.timeout(150):
                said = await said_of(site)
                while not refusals(said):
                    await asyncio.sleep(0.1)
                    said = await said_of(site)
    said += "\n".join(log.lines)
    assert [secret for secret in found if secret in said] == []


def refusals(said: str) -> bool:
    """Whether somebody said that a key was refused."""
    return re.search(r"SignatureDoesNotMatch|InvalidApiKey|InvalidAccessKey", said) is not None


# --- requirements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", audit.LOCKS)
def test_every_requirement_is_pinned_with_hashes(name: str) -> None:
    found, problems = audit.pinned((PROJECT / name).read_text())
    assert problems == []
    wanted = {
        re.split(r"[=<>\[ ]", line)[0].lower()
        for line in (PROJECT / name.replace(".lock", ".in")).read_text().splitlines()
        if line and not line.startswith(("#", "-"))
    }
    assert wanted <= set(found)


@pytest.mark.parametrize(
    "lock", ["one==1.0\n", "one>=1.0 \\\n    --hash=sha256:00\n", "one @ https://files.example/one.whl\n"]
)
def test_what_is_not_pinned_is_found(lock: str) -> None:
    assert len(audit.pinned(lock)[1]) == 1


def test_an_old_lock_is_reported_and_so_is_one_of_unknown_age() -> None:
    assert audit.too_old("requirements.lock", audit.MOST_DAYS) == []
    assert "91 days" in audit.too_old("requirements.lock", 91)[0]
    assert "unknown" in audit.too_old("requirements.lock", None)[0]


def test_advisories_that_are_out_of_reach_are_no_clean_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert audit.advisories("requirements.lock") is None
