"""Where events may go: public addresses, encrypted, and what a setting allows (rule 12.5)."""

import asyncio
import os
import socket
import ssl
import sys
import threading
from ipaddress import ip_network
from typing import Any

import pytest

from calltasks.errors import WrongUseError
from calltasks.events import receivers
from calltasks.events.receivers import Receivers, Reply, check, is_allowed
from tests.receiver import receiving
from tests.tls import Certificates

PUBLIC = (
    "8.8.8.8",
    "203.107.1.1",
    "47.100.0.1",
    "2400:3200::1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
)
INNER = (
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "169.254.0.1", "100.100.100.200", "100.64.0.1", "168.63.129.16", "192.0.0.192"),
    *("198.18.0.1", "192.0.2.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::1", "2002:7f00:1::1", "2001::1", "100::1", "3fff::1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed_if_encrypted(address: str) -> None:
    assert is_allowed(address, (), encrypted=True)
    assert not is_allowed(address, (), encrypted=False)


@pytest.mark.parametrize("address", INNER)
def test_inner_addresses_are_not_however_they_are_written(address: str) -> None:
    assert not is_allowed(address, (), encrypted=True)


def test_a_setting_allows_networks_in_any_way_and_nothing_beside_them() -> None:
    networks = (ip_network("10.20.0.0/16"), ip_network("fd00::/8"))
    for address in ("10.20.1.1", "::ffff:10.20.1.1", "fd00::7"):
        assert is_allowed(address, networks, encrypted=False)
    for address in ("10.21.0.1", "127.0.0.1", "169.254.169.254", "fe80::1"):
        assert not is_allowed(address, networks, encrypted=True)
    assert not is_allowed("8.8.8.8", networks, encrypted=False)


@pytest.mark.parametrize(
    "url",
    [
        *("", "events", "ftp://8.8.8.8/", "https://", "https:///events", "//8.8.8.8/", "http://8.8.8.8/events"),
        *("https://user@8.8.8.8/", "https://user:word@8.8.8.8/", "https://@8.8.8.8/", "https://8.8.8.8/#part"),
        *("https://8.8.8.8/\n", "https://8.8.8.8/ x", "https://8.8.8.8:0/", "https://8.8.8.8:99999/", "https://[::1/"),
        *("https://127.0.0.1/", "https://[::1]/", "https://localhost/", "https://2130706433/", "https://0x7f.1/"),
        *("https://127.1/", "https://017700000001/", "https://[::ffff:7f00:1]/", "https://169.254.169.254/latest"),
        *("https://①②⑦.0.0.1/", f"https://8.8.8.8/{'x' * 2000}", "https://nowhere.invalid/"),
    ],
)
async def test_a_url_that_may_not_be_subscribed_is_refused(url: str) -> None:
    with pytest.raises(WrongUseError) as refused:
        await check(url, ())
    assert "url" in str(refused.value) and "8.8.8.8" not in str(refused.value)


async def test_a_host_with_one_inner_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("8.8.8.8", "10.0.0.1")]

    async def answers(*_: Any, **__: Any) -> Any:
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answers)
    with pytest.raises(WrongUseError):
        await check("https://both.example/", ())
    del found[1]
    await check("https://both.example/", ())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_that_has_become_an_inner_address_is_not_connected_to(host: str, scheme: str) -> None:
    """What was subscribed as something else: the address is looked at where it is connected to."""
    connected = []

    async def connect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sending = Receivers(())
    reply = await sending.post(f"{scheme}://{host}:{port}/", "{}", {})
    await sending.close()
    server.close()
    assert reply.error in ("NotAllowed", "InvalidUrlClientError") and connected == []


async def test_names_that_nobody_answers_for_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    released, resolve = threading.Event(), socket.getaddrinfo

    def hang(host: Any, *arguments: Any, **named: Any) -> Any:
        if host == "hangs.example":
            released.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return resolve(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    sending = Receivers((ip_network("127.0.0.0/8"), ip_network("::1/128")))
    hanging = [
        asyncio.create_task(sending.post(f"http://hangs.example:{port}/", "{}", {})) for port in range(8000, 8040)
    ]
    try:
        async with asyncio.timeout(10), receiving() as receiver:
            await asyncio.sleep(0.1)
            assert await asyncio.to_thread(lambda: True)
            url = receiver.url.replace("127.0.0.1", "localhost")
            assert (await sending.post(url, '{"type":"x","id":"1","data":{}}', {})).error == ""
    finally:
        released.set()
    assert {reply.error for reply in await asyncio.gather(*hanging)} == {"Unreachable"}
    await sending.close()


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with receiving() as receiver:
        sending = Receivers((ip_network("127.0.0.0/8"),))
        assert (await sending.post(receiver.url, '{"type":"x","id":"1","data":{}}', {})).error == ""
        await sending.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificates: Certificates) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server)
    said = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.read(10))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    sending = Receivers((ip_network("127.0.0.0/8"),))
    reply = await sending.post(f"https://127.0.0.1:{port}/", "{}", {})
    await sending.close()
    server.close()
    assert (reply.error, said) == ("Certificate", [])


SEND = """
import asyncio, sys
from ipaddress import ip_network
from calltasks.events.receivers import Receivers

async def send(url):
    sending = Receivers((ip_network("127.0.0.0/8"), ip_network("::1/128")))
    print(await sending.post(url, "{}", {}))
    await sending.close()

asyncio.run(send(sys.argv[1]))
"""


@pytest.mark.parametrize(("host", "named"), [("localhost", "localhost"), ("127.0.0.1", None)])
async def test_what_is_encrypted_arrives_under_the_receivers_name(
    certificates: Certificates, host: str, named: str | None
) -> None:
    """The name for TLS is the URL's, and an authority of one's own is trusted as every program is told of it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.named if named else certificates.server)
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, host, 0, ssl=context, family=socket.AF_INET)
    url = f"https://{host}:{server.sockets[0].getsockname()[1]}/"
    environment = os.environ | {"SSL_CERT_FILE": str(certificates.ca)}
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SEND, url), env=environment, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await program.communicate()
    server.close()
    assert said.decode().strip() == str(Reply()) and names == [named]


async def test_the_name_of_the_receiver_is_kept_beside_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host and the name for TLS are the URL's, though the connection goes to the address that was looked at."""
    async with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        sending = Receivers((ip_network("127.0.0.0/8"), ip_network("::1/128")))
        assert (await sending.post(url, '{"type":"x","id":"1","data":{}}', {})).error == ""
        await sending.close()
    assert receiver.requests[0]["headers"]["Host"].startswith("localhost:")


@pytest.mark.parametrize(
    ("wish", "seconds"), [("0", 1.0), ("120", 120.0), ("-5", None), ("soon", None), ("9999999999", None), ("", None)]
)
def test_what_a_receiver_wishes(wish: str, seconds: float | None) -> None:
    assert receivers._seconds(wish) == seconds


def test_a_date_that_a_receiver_wishes_is_no_longer_than_a_day() -> None:
    assert receivers._seconds("Wed, 21 Oct 2199 07:28:00 GMT") == receivers.LONGEST_WISH
    assert receivers._seconds("Wed, 21 Oct 1999 07:28:00 GMT") == 1.0
