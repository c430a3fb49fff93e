"""TLS to the database, by DATABASE_URL, and to Temporal, by the variables of temporalio.envconfig."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from pymysql.cursors import Cursor
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

from calltasks.database.connection import Database
from calltasks.errors import PassingError, PermanentError, ServiceError, SettingsError
from calltasks.settings import DatabaseSettings
from calltasks.temporal.connection import connect
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from tests.tls import Certificates, tls_before

pytestmark = pytest.mark.database


@pytest.fixture(autouse=True)
def _tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused is not tried again here: that takes a second each time."""
    monkeypatch.setattr("calltasks.database.connection.TRIES", 1)


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
        ("?ssl_ca={ca}&ssl_disabled=false", "127.0.0.1"),
        ("?ssl_verify_cert=false", "127.0.0.1"),
        ("?ssl_ca={other}&ssl_verify_cert=false", "127.0.0.1"),
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


@pytest.mark.parametrize("query", ["?ssl_ca=/nowhere/ca.pem", "?ssl_verify_cert=perhaps"])
def test_wrong_tls_settings_are_one_line_that_names_the_variable(mariadb: EmbeddedMariaDB, query: str) -> None:
    with pytest.raises(SettingsError, match=r"^settings: DATABASE_URL") as raised:
        ask(mariadb, query)
    assert mariadb.password not in str(raised.value)


# --- TLS to Temporal ------------------------------------------------------------------------------------------------


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
