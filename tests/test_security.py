"""TLS to the database and to Temporal, least rights, no secret where it does not belong, pinned requirements."""

import asyncio
import contextlib
import ipaddress
import os
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from pymysql.cursors import Cursor
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

import settings
from clients.database import Database
from clients.errors import PassingError, PermanentError, ServiceError
from clients.tables import schema
from clients.temporal import connect
from devstack import audit
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from settings import DatabaseSettings, SettingsError
from simulators import SimulatorOptions
from starter import CallTasks
from tests.pipeline import QUICK, LogLines, Site, Sites, assert_finished, decoded, opening_sites

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
async def sites(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        yield sites


# --- certificates ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files: an authority, what it signed for a server at 127.0.0.1 and for a client, and a foreign authority."""

    ca: Path
    server: Path
    client: Path
    other_ca: Path


def _certificate(path: Path, name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None) -> Any:
    """Writes certificate and key to `path`; an authority unless there is an issuer. Returns name and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    authority = issuer is None
    by_name, by_key = issuer or (subject, key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=by_name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    pem = builder.sign(by_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem + (b"" if authority else key.private_bytes(*encoding)))
    return subject, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    found = Certificates(**{name: directory / f"{name}.pem" for name in Certificates.__dataclass_fields__})
    authority = _certificate(found.ca, "authority of these tests")
    _certificate(found.server, "server", authority)
    _certificate(found.client, "client", authority)
    _certificate(found.other_ca, "authority of nobody")
    return found


# --- TLS to the database --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_mariadb(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMariaDB]:
    """A server with a certificate, and users that must use TLS: `tls-user`, and `mtls-user` with a certificate."""
    options = [f"--ssl-ca={certificates.ca}", *(f"--ssl-{kind}={certificates.server}" for kind in ("cert", "key"))]
    server = EmbeddedMariaDB(tmp_path_factory.mktemp("tls-mariadb"), relaxed=True, options=options)
    try:
        server.start()
        with server.connect(root=True) as root, root.cursor() as cursor:
            for user, needed in (("tls-user", "SSL"), ("mtls-user", "X509")):
                cursor.execute(f"CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{server.password}' REQUIRE {needed}")
                cursor.execute(f"GRANT ALL ON `{server.database}`.* TO '{user}'@'127.0.0.1'")
        yield server
    finally:
        server.stop()


def ask(server: EmbeddedMariaDB, query: str, *, user: str = "app", host: str = "127.0.0.1") -> str:
    """The cipher of a connection that the product makes; "" stands for none."""
    url = f"mysql+pymysql://{user}:{server.password}@{host}:{server.port}/{server.database}{query}"
    database = Database(DatabaseSettings(database_url=SecretStr(url)))
    try:
        return database.run_sync(_cipher)
    finally:
        database.close()


def _cipher(cursor: Cursor) -> str:
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    row = cursor.fetchone()
    assert row is not None
    return str(row[1])


def test_the_right_authority_connects_with_tls(tls_mariadb: EmbeddedMariaDB, certificates: Certificates) -> None:
    assert ask(tls_mariadb, f"?ssl_ca={certificates.ca}").startswith("TLS_")
    assert ask(tls_mariadb, f"?ssl_ca={certificates.ca}", user="tls-user").startswith("TLS_")
    certificate = f"&ssl_cert={certificates.client}&ssl_key={certificates.client}"
    assert ask(tls_mariadb, f"?ssl_ca={certificates.ca}{certificate}", user="mtls-user").startswith("TLS_")


def test_the_wrong_authority_and_the_wrong_name_are_refused(
    tls_mariadb: EmbeddedMariaDB, certificates: Certificates
) -> None:
    with pytest.raises(PassingError, match="2003"):
        ask(tls_mariadb, f"?ssl_ca={certificates.other_ca}")
    with pytest.raises(PassingError, match="2003"):
        ask(tls_mariadb, f"?ssl_ca={certificates.ca}", host="localhost")


def test_tls_that_was_asked_for_is_never_given_up(mariadb: EmbeddedMariaDB, certificates: Certificates) -> None:
    """The server has no certificate: nothing is sent to it, the password least of all."""
    with pytest.raises(ServiceError):
        ask(mariadb, f"?ssl_ca={certificates.ca}")


def test_users_that_must_use_tls_are_refused_without(tls_mariadb: EmbeddedMariaDB, certificates: Certificates) -> None:
    with pytest.raises(PermanentError, match="1045"):
        ask(tls_mariadb, "", user="tls-user")
    with pytest.raises(PermanentError, match="1045"):
        ask(tls_mariadb, f"?ssl_ca={certificates.ca}", user="mtls-user")


@pytest.mark.parametrize(
    ("query", "host"),
    [
        ("?ssl_ca={ca}&ssl_verify_cert=true&ssl_verify_identity=true", "127.0.0.1"),
        ("?ssl_ca={ca}&ssl_verify_identity=false", "localhost"),
        ("?ssl_verify_cert=false", "127.0.0.1"),
        ("?ssl_ca={other}&ssl_verify_cert=false", "127.0.0.1"),
        ("?ssl_ca={ca}&ssl_disabled=false", "127.0.0.1"),
    ],
)
def test_what_is_verified_can_be_chosen(
    tls_mariadb: EmbeddedMariaDB, certificates: Certificates, query: str, host: str
) -> None:
    query = query.format(ca=certificates.ca, other=certificates.other_ca)
    assert ask(tls_mariadb, query, host=host, user="tls-user" if host == "127.0.0.1" else "app").startswith("TLS_")


@pytest.mark.parametrize(
    "query",
    [
        "?ssl_verify_cert=true",
        "?ssl_verify_identity=true",
        "?ssl_ca={other}&ssl_verify_cert=true",
        "?ssl_ca={other}&ssl_verify_identity=false",
    ],
)
def test_verifying_is_never_less_than_was_asked_for(
    tls_mariadb: EmbeddedMariaDB, certificates: Certificates, query: str
) -> None:
    with pytest.raises(PassingError, match="2003"):
        ask(tls_mariadb, query.format(other=certificates.other_ca))


@pytest.mark.parametrize("query", ["?ssl_ca=/nowhere/ca.pem", "?ssl_mode=REQUIRED", "?ssl_verify_cert=perhaps"])
def test_wrong_tls_settings_are_one_line_that_names_the_variable(mariadb: EmbeddedMariaDB, query: str) -> None:
    with pytest.raises(SettingsError, match=r"^settings: DATABASE_URL") as raised:
        ask(mariadb, query)
    assert mariadb.password not in str(raised.value)


# --- TLS to Temporal ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def tls_before(address: str, certificates: Certificates, *, mutual: bool) -> AsyncIterator[str]:
    """The address of a TLS listener that hands on to `address`; `mutual`: to those with a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.server)
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.partition(":")

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, inner_writer))
            group.create_task(pump(inner_reader, writer))

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        target.close()

    server = await asyncio.start_server(hand_on, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def answers() -> bool:
    """Whether the product's own connection reaches Temporal."""
    try:
        client = await connect()
    except PassingError:
        return False
    return bool((await client.workflow_service.get_system_info(GetSystemInfoRequest())).server_version)


@pytest.mark.parametrize("mutual", [False, True])
async def test_temporal_is_reached_by_tls(
    temporal: EmbeddedTemporal, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, mutual: bool
) -> None:
    async with tls_before(temporal.address, certificates, mutual=mutual) as address:
        monkeypatch.setenv("TEMPORAL_ADDRESS", address)
        assert not await answers(), "without TLS"
        monkeypatch.setenv("TEMPORAL_TLS", "true")
        monkeypatch.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", str(certificates.other_ca))
        if mutual:
            monkeypatch.setenv("TEMPORAL_TLS_CLIENT_CERT_PATH", str(certificates.client))
            monkeypatch.setenv("TEMPORAL_TLS_CLIENT_KEY_PATH", str(certificates.client))
        assert not await answers(), "the wrong authority"
        monkeypatch.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", str(certificates.ca))
        assert await answers()
        monkeypatch.setenv("TEMPORAL_TLS_SERVER_NAME", "temporal.example")
        assert not await answers(), "the wrong name"
        monkeypatch.delenv("TEMPORAL_TLS_SERVER_NAME")
        if mutual:
            monkeypatch.delenv("TEMPORAL_TLS_CLIENT_CERT_PATH")
            monkeypatch.delenv("TEMPORAL_TLS_CLIENT_KEY_PATH")
            assert not await answers(), "no certificate of the client"


async def test_a_missing_certificate_file_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", "/nowhere/ca.pem")
    with pytest.raises(SettingsError, match="TEMPORAL_") as raised:
        await connect()
    assert "\n" not in str(raised.value)


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
        "SELECT * FROM mysql.global_priv",
        "GRANT SELECT ON dcc_leads TO CURRENT_USER",
    ],
    "call-backend": [
        "SELECT leads_remark FROM dcc_leads_follow",
        "SELECT * FROM call_analyses",
        "UPDATE leads_task_list SET leads_phone = ''",
        "UPDATE leads_task_list SET leads_follow_id = 1",
        "UPDATE call_tasks SET task_type = 4",
        "DELETE FROM call_tasks",
        "UPDATE dcc_leads SET leads_user_name = ''",
        "INSERT INTO call_dispatches SELECT * FROM call_dispatches",
        "CREATE TABLE more (id INT)",
        "SELECT * FROM mysql.global_priv",
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
            async with asyncio.timeout(30):
                assert (await calls.analysed_again(task_id, every=0.1))["reanalysed"] > 0
            # What the platform still knows is written again, a recording too.
            site.sql("UPDATE leads_task_list SET recording_url = NULL, call_conversation = NULL, updated_time = NULL")
            page = await calls.query_task_execution(task_id, skip_recording=False)
    assert page.updated_count > 0 and result["outcome"] == "complete" and result["recordings"] > 0
    assert site.task(task_id)["task_type"] == 4

    allowed = [f"{user}: {text}" for user, texts in DENIED.items() for text in texts if not users.refused(user, text)]
    assert allowed == []


async def test_the_api_starts_with_the_rights_of_the_backend(sites: Sites, mariadb: EmbeddedMariaDB) -> None:
    await sites()
    users = Users(mariadb, urlsplit(os.environ["DATABASE_URL"]).path[1:], secrets.token_hex(8))
    users.grant("call-backend")
    database = Database(DatabaseSettings(database_url=SecretStr(users.url("call-backend"))))
    try:
        await database.run(schema.check, **API_CHECK)
    finally:
        database.close()


API_CHECK: dict[str, Any] = {"rights": schema.BACKEND_RIGHTS} if hasattr(schema, "BACKEND_RIGHTS") else {}


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
            async with asyncio.timeout(30):
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
