"""The way to receivers: URLs that strangers have given, so only to public addresses unless a setting names others.

The address is looked at where the connection is opened, after the name was resolved: what was looked at is what is
connected to, under the receiver's own name for TLS. No redirect is followed, no proxy is used (it would resolve names
itself), no cookie kept, and of an answer nothing is read but its status and ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from calltasks.errors import RefusedUrlError
from calltasks.settings import Network

SECONDS = 15
"""A receiver must have answered within this."""
LONGEST_WISH = 86_400
"""Seconds; a receiver that asks for a longer pause is tried again after this."""
NAMES = 50
"""Names that are resolved at the same time: a receiver whose name hangs keeps no other one waiting."""
NOT_ALLOWED = "NotAllowed"
"""The error where events may not go there."""
MOST_URL = 2000
_NEVER = tuple(
    map(
        ip_network,
        (
            *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"),  # protocols' own; Azure's inner services
            *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # tunnels and examples within 2000::/3
        ),
    )
)
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a receiver said. ``error``: a code, ``""`` if it took what was sent; ``gone``: it wants no more;
    ``retry_after``: seconds that it asks for."""

    error: str = ""
    gone: bool = False
    retry_after: float | None = None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is anybody's in the internet, and not of an inner network, a tunnel or a metadata service."""
    if any(address.version == never.version and address in never for never in _NEVER):
        return False
    if isinstance(address, IPv6Address):
        return address in _UNICAST
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_allowed(text: str, networks: Sequence[Network], *, encrypted: bool) -> bool:
    """Whether events may go to an address: to a public one encrypted, to these networks in any way."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or (IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None)
        address = inner or address
    if any(address.version == network.version and address in network for network in networks):
        return True
    return encrypted and is_public(address)


async def check(url: str, networks: Sequence[Network]) -> None:
    """See that events may be sent there.

    Raises:
        RefusedUrlError: why not.
    """
    parts = _parsed(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.raw_host, parts.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefusedUrlError("its host has no address") from None
    addresses = {str(one[4][0]) for one in found}
    if not all(is_allowed(one, networks, encrypted=parts.scheme == "https") for one in addresses):
        raise RefusedUrlError(
            "must be https, to a host with none but public addresses (EVENTS_NETWORKS names inner ones that are"
            " allowed)"
        )


def _parsed(url: str) -> URL:
    try:
        parts = URL(url)
        right = parts.scheme in ("http", "https") and parts.raw_host and parts.port and parts.user is None
        right = right and parts.password is None and not parts.raw_fragment and "@" not in urlsplit(url).netloc
    except ValueError:
        right = False
    if not right or len(url) > MOST_URL or re.search(r"[^\x21-\x7e]", url):
        raise RefusedUrlError("must be like https://example.com/events, without a user, a password and a #")
    return parts


class _Names(AbstractResolver):
    """Resolves in threads of its own: names that nobody answers for take none that the rest of the process needs."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NAMES, thread_name_prefix="receivers")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name."""
        look_up = partial(socket.getaddrinfo, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up, host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Wait for nobody who does not answer."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Receivers:
    """Sends; one pool of connections a process. ``networks``: allowed beside public addresses."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._names = _Names()

    async def post(self, url: str, body: str, headers: Mapping[str, str]) -> Reply:
        """Send, and see what the receiver says; never raises for what a receiver or a network does."""
        try:
            parts = _parsed(url)
            session = self._session(parts.scheme)
            async with session.post(parts, data=body.encode(), headers=headers, allow_redirects=False) as answer:
                return _reply(answer.status, answer.headers.get("retry-after", ""))
        except RefusedUrlError:
            return Reply(error=NOT_ALLOWED)
        except TimeoutError:
            return Reply(error="Timeout")
        except aiohttp.ClientConnectorCertificateError:
            return Reply(error="Certificate")
        except aiohttp.ClientConnectorError as error:
            return Reply(error=NOT_ALLOWED if error.errno == errno.EACCES else "Unreachable")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(error=type(error).__name__)

    def _session(self, scheme: str) -> aiohttp.ClientSession:
        if scheme not in self._sessions:
            self._sessions[scheme] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    resolver=self._names,
                    socket_factory=partial(_socket, self._networks, encrypted=scheme == "https"),
                ),
                timeout=aiohttp.ClientTimeout(total=SECONDS, sock_connect=5),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                headers={"user-agent": "calltasks-events"},
            )
        return self._sessions[scheme]

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        await self._names.close()


def _socket(networks: Sequence[Network], where: aiohttp.AddrInfoType, *, encrypted: bool) -> socket.socket:
    family, kind, protocol, _, address = where
    if not is_allowed(str(address[0]), networks, encrypted=encrypted):
        raise OSError(errno.EACCES, "not a public address")
    return socket.socket(family=family, type=kind, proto=protocol)


def _reply(status: int, wish: str) -> Reply:
    if 200 <= status < 300:
        return Reply()
    return Reply(error=f"Http{status}", gone=status == 410, retry_after=_seconds(wish))


def _seconds(wish: str) -> float | None:
    """``Retry-After``: seconds, or a date."""
    try:
        if re.fullmatch(r"[0-9]{1,9}", wish.strip()):
            seconds = float(wish)
        else:
            seconds = (parsedate_to_datetime(wish).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 1.0), LONGEST_WISH)
