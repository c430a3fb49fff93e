"""Least rights in the database, no secret where it does not belong, pinned requirements."""

import asyncio
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import httpx
import pymysql
import pytest
from pymysql.cursors import Cursor
from sqlalchemy import event
from sqlalchemy.pool import Pool

from calltasks import settings
from calltasks.api import server
from calltasks.call_tasks import CallTasks
from calltasks.database import rights, schema
from calltasks.database.connection import THREADS
from calltasks.database.rights import Rights
from calltasks.errors import SchemaError
from devstack import audit
from devstack.listener import Listener
from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import wait_until
from simulators import Contact, SimulatorOptions
from tests.api_site import TOKEN, api_settings, serving
from tests.pipeline import PATIENCE, QUICK, LogLines, Site, Sites, assert_finished, decoded, eventually

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
        "DELETE FROM call_analyses",
        "CREATE TABLE more (id INT)",
        "DROP TABLE call_retries",
        "SELECT * FROM mysql.user",
        "GRANT SELECT ON dcc_leads TO CURRENT_USER",
    ],
    "call-backend": [
        "INSERT INTO dcc_leads_follow (leads_id) VALUES (1)",
        "UPDATE dcc_leads_follow SET leads_id = ''",
        "INSERT INTO call_analyses SELECT * FROM call_analyses",
        "UPDATE call_dispatches SET tries = 0",
        "INSERT INTO call_contacts SELECT * FROM call_contacts",
        "UPDATE call_suppressions SET reason = ''",
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

    def name(self, user: str) -> str:
        return f"{user}-{self.database[-6:]}"

    def account(self, user: str) -> str:
        """As `CURRENT_USER()` says it."""
        return f"{self.name(user)}@127.0.0.1"

    def url(self, user: str) -> str:
        return f"mysql+pymysql://{self.name(user)}:{self.password}@127.0.0.1:{self.server.port}/{self.database}"

    def grant(self, *users: str) -> None:
        """Make the users, by the statements of the document."""
        for user in users:
            mine = documented(user)
            assert len(mine) >= 2
            self.as_root(f"DROP USER IF EXISTS '{self.name(user)}'@'127.0.0.1'", *mine)

    def as_root(self, *statements: str) -> None:
        with self.server.connect(root=True) as root, root.cursor() as cursor:
            for statement in statements:
                here = re.sub(r"'(call-[a-z]+)'@'%'", rf"'\1-{self.database[-6:]}'@'127.0.0.1'", statement)
                here = re.sub(r"BY '[^']*'", f"BY '{self.password}'", here).replace("crm.", f"`{self.database}`.")
                cursor.execute(here)

    def connect(self, user: str) -> "pymysql.Connection[Cursor]":
        return pymysql.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=self.name(user),
            password=self.password,
            database=self.database,
            ssl_disabled=True,
            autocommit=True,
        )

    def refused(self, user: str, statement: str) -> bool:
        with self.connect(user) as link, link.cursor() as cursor:
            try:
                cursor.execute(statement)
            except pymysql.MySQLError as error:
                return error.args[0] in REFUSALS
        return False


def documented(user: str) -> list[str]:
    """The statements of docs/security.md about a user, each in one line."""
    text = (PROJECT / "docs/security.md").read_text("utf-8")
    blocks = "\n".join(re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return [" ".join(statement.split()) for statement in blocks.split(";") if f"'{user}'@" in statement]


def grants(user: str, needed: dict[str, Rights]) -> list[str]:
    """The GRANT statements that give a user what it needs."""
    return [f"GRANT {', '.join(parts(one))} ON crm.{table} TO '{user}'@'%'" for table, one in needed.items()]


def parts(one: Rights) -> list[str]:
    """The rights on one table, as GRANT names them."""
    update = ["UPDATE" if one.update == ("*",) else f"UPDATE ({', '.join(one.update)})"] if one.update else []
    return ["SELECT", *["INSERT"] * one.insert, *update, *["DELETE"] * one.delete]


@pytest.fixture
def accounts() -> Iterator[list[str]]:
    """As whom each connection of the product was opened, by the server's own word."""
    opened: list[str] = []

    def note(connection: "pymysql.Connection[Cursor]", _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT CURRENT_USER()")
            opened.append(str(cursor.fetchall()[0][0]))

    event.listen(Pool, "connect", note)
    yield opened
    event.remove(Pool, "connect", note)


@pytest.mark.parametrize(("user", "needed"), [("call-worker", rights.WORKER), ("call-backend", rights.BACKEND)])
def test_the_page_grants_what_is_needed_and_nothing_else(user: str, needed: dict[str, Rights]) -> None:
    given = [text for text in documented(user) if text.startswith("GRANT") and "REFERENCES" not in text]
    assert given == grants(user, needed)


def test_init_db_may_alter_each_of_our_tables_by_the_page() -> None:
    given = " ".join(documented("call-setup"))
    assert [table for table in schema.own_columns() if f" ON crm.{table} " not in given] == []


async def test_least_rights_are_enough_and_nothing_beyond_is_allowed(
    sites: Sites, mariadb: EmbeddedMariaDB, accounts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await sites(SimulatorOptions(calls_over=True, refusal_rate=0), EVENTS_NETWORKS="127.0.0.0/8")
    users = Users(mariadb, urlsplit(os.environ["DATABASE_URL"]).path[1:], secrets.token_hex(8))

    def become(user: str) -> None:
        """Whatever is opened from now on is opened as this user."""
        site.environment["DATABASE_URL"] = users.url(user)
        accounts.clear()

    site.sql("DROP TABLE call_schema, call_retries, call_analyses")
    site.sql("ALTER TABLE call_follow_ups DROP COLUMN created_at")
    site.sql("DROP INDEX idx_job ON leads_task_list")
    users.grant("call-setup")
    become("call-setup")
    async with site.calls() as calls:
        created = await calls.init_db()
    assert sorted(created) == [
        "column call_follow_ups.created_at",
        "index idx_job on leads_task_list",
        *("table call_analyses", "table call_retries", "table call_schema"),
    ]
    assert set(accounts) == {users.account("call-setup")}

    users.grant("call-worker", "call-backend")
    site.add_leads(40)
    become("call-backend")
    task_id = await site.create_task()
    assert set(accounts) == {users.account("call-backend")}
    become("call-worker")
    async with site.working():
        assert accounts == [users.account("call-worker")] * THREADS, "all connections that the worker ever has"
        become("call-backend")
        result = await site.run(task_id)
        async with site.calls() as calls:
            await calls.force_analyze(task_id, every=True)
            assert (await calls.analysed_again(task_id, every=0.1))["reanalysed"] == 40
            # What the platform still knows is written again, a recording too.
            site.sql("UPDATE leads_task_list SET recording_url = NULL, call_conversation = NULL, updated_time = NULL")
            page = await calls.query_task_execution(task_id, skip_recording=False)
            judged = await calls.analyses(page.jobs_data[0]["JobId"])
            await taken_up(site, calls)
        for name, value in api_settings().items():
            monkeypatch.setenv(name, value)
        await asyncio.to_thread(by_http)
        assert set(accounts) == {users.account("call-backend")}
    assert judged is not None and page.updated_count > 0
    assert (result["outcome"], result["last_error"]) == ("complete", "") and result["recordings"] > 0
    assert site.task(task_id)["task_type"] == 4

    allowed = [f"{user}: {text}" for user, texts in DENIED.items() for text in texts if not users.refused(user, text)]
    assert allowed == []


async def taken_up(site: Site, calls: CallTasks) -> None:
    """The monitor finds an open task that nothing works on, and the task is brought to its end."""
    task_id = site.old_task([{"leads_id": 1, "leads_phone": "13900000001"}], [Contact(phone="13900000001")])
    await calls.monitor("check")

    async def complete() -> bool:
        return bool(site.task(task_id)["task_type"] == 4)

    await eventually(complete)


def by_http() -> None:
    """A task over HTTP, from its creation to a fresh look at its calls."""
    headers = {"access-token": TOKEN}
    with serving() as url, httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=PATIENCE) as http:

        def ask(method: str, path: str, **body: Any) -> Any:
            answer = http.request(method, path, json=body or None)
            assert answer.status_code == 200, answer.text
            return answer.json()["data"]

        task_id = int(ask("POST", "/create-autoCall-tasks", task_name="by http", all_leads=True)["task_id"])
        assert ask("POST", "/start-call-task", task_id=task_id, dry_run=True)["to_call"] == 40
        ask("POST", "/start-call-task", task_id=task_id)
        wait_until(
            lambda: bool(ask("GET", f"/call-tasks/{task_id}/progress")["phase"] == "complete"), PATIENCE, "complete"
        )
        assert ask("POST", "/query-task-execution", task_id=task_id)["total"] == 40
        ask("POST", "/force-analyze", task_id=task_id, failed=True)
        with Listener() as receiver:
            made = ask("POST", "/event-subscriptions", url=receiver.url, since="2026-01-01T00:00:00Z")
            receiver.secret = made["secret"]
            wait_until(lambda: len(receiver.events) > 40, PATIENCE, "events were told")
        assert ask("GET", "/event-subscriptions")[0]["id"] == made["id"]
        ask("DELETE", f"/event-subscriptions?id={made['id']}")
        assert ask("POST", "/opt-outs", phone="13900000001")["added"]
        assert len(ask("GET", "/opt-outs")["opt_outs"]) == 1
        ask("POST", "/opt-outs/lift", phone="13900000001", reason="asked for a call")
        assert not ask("GET", "/opt-outs/check?phone=13900000001")["opted_out"]
        correct_in_the_console(http, task_id)


def correct_in_the_console(http: httpx.Client, task_id: int) -> None:
    assert http.post("/console/sign-in", data={"token": TOKEN}).status_code == 303
    found = re.search(r'href="(/console/calls/\d+)\?', http.get(f"/console/campaigns/{task_id}").text)
    assert found
    word = {"is_interested": "1", "leads_remark": "来过店", "do_not_call": "1"}
    for action in ("correct", "right"):
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', http.get(found[1]).text))
        assert http.post(f"{found[1]}/{action}", data=hidden | word).status_code == 303


def test_a_worker_names_each_right_that_it_lacks(database_url: str, mariadb: EmbeddedMariaDB) -> None:
    users = Users(mariadb, urlsplit(database_url).path[1:], secrets.token_hex(8))
    users.grant("call-worker")
    with users.connect("call-worker") as link, link.cursor() as cursor:
        schema.check(cursor, ZoneInfo("Asia/Shanghai"))
        for table, one in rights.WORKER.items():
            for part in singly(one):
                users.as_root(f"REVOKE {part} ON crm.{table} FROM 'call-worker'@'%'")
                with pytest.raises(SchemaError) as refused:
                    schema.check(cursor, ZoneInfo("Asia/Shanghai"))
                assert f"it lacks {part} on {table};" in str(refused.value)
                users.as_root(f"GRANT {part} ON crm.{table} TO 'call-worker'@'%'")
        schema.check(cursor, ZoneInfo("Asia/Shanghai"))


async def test_the_http_interface_names_each_right_that_it_lacks(
    sites: Sites, mariadb: EmbeddedMariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await sites()
    users = Users(mariadb, urlsplit(os.environ["DATABASE_URL"]).path[1:], secrets.token_hex(8))
    users.grant("call-backend")
    with users.connect("call-backend") as link, link.cursor() as cursor:
        schema.check_backend(cursor)
        for table, one in rights.BACKEND.items():
            for part in singly(one):
                users.as_root(f"REVOKE {part} ON crm.{table} FROM 'call-backend'@'%'")
                with pytest.raises(SchemaError) as refused:
                    schema.check_backend(cursor)
                said = (
                    f"as a backend does, it lacks {part} on {table};",
                    f"no table {table}, or no right to see it;",
                    f"no column {table}.id, {table}.leads_id; these tables",
                )
                assert any(line in str(refused.value) for line in said), f"{part} on {table}: {refused.value}"
                users.as_root(f"GRANT {part} ON crm.{table} TO 'call-backend'@'%'")
        schema.check_backend(cursor)
    users.as_root("REVOKE INSERT ON crm.leads_task_list FROM 'call-backend'@'%'")
    for name, value in (api_settings() | site.environment | {"DATABASE_URL": users.url("call-backend")}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SchemaError, match="lacks INSERT on leads_task_list"):
        await server.run()


def singly(one: Rights) -> list[str]:
    """Each right on one table by itself."""
    columns = [] if one.update == ("*",) else [f"UPDATE ({column})" for column in one.update]
    return [*columns, *(part for part in parts(one) if not part.startswith("UPDATE ("))]


# --- no secret in a history -----------------------------------------------------------------------------------------


def secret_values() -> set[str]:
    """Every value in the environment that the settings call a secret, and the password within DATABASE_URL."""
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
