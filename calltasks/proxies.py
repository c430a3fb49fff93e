"""The proxy for an address, as the environment names it: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``,
in capitals or not. Each vendor's SDK has rules of its own; this is the one that holds for both.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from calltasks.errors import SettingsError


def proxy_for(url: str) -> str | None:
    """The proxy for this address, with its scheme; None for none.

    Raises:
        SettingsError: what the environment names is no proxy for HTTP.
    """
    proxy = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    named = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(named)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right:
        name = next((name for name, value in os.environ.items() if value == proxy), "HTTPS_PROXY")
        raise SettingsError(
            f"settings: {name}: must be http://host:port for {urlsplit(url).hostname}; without it, or with that host in"
            " NO_PROXY, no proxy is used"
        )
    return named
