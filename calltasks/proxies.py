"""The proxy for an address, as the environment names it: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``,
in capitals or not. Each vendor's SDK has rules of its own; this is the one that holds for all.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment

from calltasks.errors import SettingsError


def proxy_for(url: str) -> str | None:
    """The proxy for this address, with its scheme; None for none.

    Raises:
        SettingsError: what the environment names is no proxy for HTTP.
    """
    address, named = urlsplit(url), getproxies_environment()
    proxy = named.get(address.scheme) or named.get("all") or ""
    if not proxy.strip() or any(_is_of(address, entry) for entry in re.split(r"[\s,]+", named.get("no", ""))):
        return None
    whole = proxy.strip() if "://" in proxy else f"http://{proxy.strip()}"
    try:
        parts = urlsplit(whole)
        host = parts.hostname or ""
        right = parts.scheme in ("http", "https") and host and parts.port != 0 and not re.search(r"[\s\0-\x20]", whole)
        host.encode("idna")
    except ValueError:
        right = False
    if not right:
        name = next((name for name, value in os.environ.items() if value == proxy), "HTTPS_PROXY")
        raise SettingsError(
            f"settings: {name}: must be http://host:port for {address.hostname}; without it, or with that host in"
            " NO_PROXY, no proxy is used"
        )
    return whole


def _is_of(address: SplitResult, entry: str) -> bool:
    """Whether an entry of ``NO_PROXY`` is of this address: ``*``, a host with those below it, an IP address, each with
    a port or without, or a network."""
    host = (address.hostname or "").rstrip(".")
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        pass  # One of them is a name, or the entry has brackets or a port.
    found = re.fullmatch(r"(?:\[(.+)\]|\*?\.?([^:*]+)|(\*))(?::([0-9]+))?", entry.lower())
    if not found:
        return False
    literal, name, every, port = found.groups()
    if port and int(port) != (address.port or {"http": 80, "https": 443}.get(address.scheme)):
        return False
    name = (literal or name or "").rstrip(".")
    return bool(every) or host == name or (bool(name) and host.endswith(f".{name}"))
