"""Certificates of an authority of our own, and a TLS listener before a server that speaks none."""

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files: an authority, what it signed for a server at 127.0.0.1, for one at localhost and for a client, and a
    foreign authority."""

    ca: Path
    server: Path
    named: Path
    client: Path
    other_ca: Path


def _certificate(
    path: Path,
    name: str,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
    of: x509.GeneralName = HERE,
) -> Any:
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
        .add_extension(x509.SubjectAlternativeName([of]), critical=False)
    )
    pem = builder.sign(by_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem + (b"" if authority else key.private_bytes(*encoding)))
    return subject, key


def write_certificates(directory: Path) -> Certificates:
    found = Certificates(**{name: directory / f"{name}.pem" for name in Certificates.__dataclass_fields__})
    authority = _certificate(found.ca, "authority of these tests")
    _certificate(found.server, "server", authority)
    _certificate(found.named, "server", authority, x509.DNSName("localhost"))
    _certificate(found.client, "client", authority)
    _certificate(found.other_ca, "authority of nobody")
    return found


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Hand on until one end is closed."""
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()
    with contextlib.suppress(OSError):
        await target.wait_closed()


@contextlib.asynccontextmanager
async def tls_before(
    address: str, certificates: Certificates, *, mutual: bool = False, protocol: str = "h2"
) -> AsyncIterator[str]:
    """The address of a TLS listener that hands on to `address`; `mutual`: to those with a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.server)
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    host, _, port = address.partition(":")

    open_connections: dict[asyncio.StreamWriter, asyncio.Task[Any]] = {}

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections[writer] = task
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        open_connections.pop(writer, None)

    server = await asyncio.start_server(hand_on, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # The clients keep their connections: end these, or their tasks outlive the test.
        left = dict(open_connections)
        for writer in left:
            writer.transport.abort()
        await asyncio.gather(*left.values())
