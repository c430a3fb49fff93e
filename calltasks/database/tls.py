"""TLS to MySQL, from the query parameters of DATABASE_URL (docs/security.md)."""

from __future__ import annotations

import ssl
from typing import Any

from sqlalchemy import URL

from calltasks.errors import SettingsError

LOCAL = ("127.0.0.1", "localhost", "::1")
_FILES = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key")
_SWITCHES = ("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity")
_WORDS = {"true": True, "1": True, "false": False, "0": False}


def without_tls(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL without its ``ssl_…`` parameters, and the arguments for PyMySQL that they stand for.

    PyMySQL takes ``false`` for true and forgets the authority when it is told to verify, so that the context is made
    here. Any parameter but ``ssl_disabled`` makes TLS a must: nothing is sent to a server that has none.

    Raises:
        SettingsError: a switch is neither true nor false, or a file cannot be used.
    """
    given = {name: str(value) for name, value in url.query.items() if name.startswith("ssl")}
    bare = url.difference_update_query(given)
    switches = {name: _switch(name, given[name]) for name in _SWITCHES if name in given}
    if switches.get("ssl_disabled", not given and url.host in LOCAL):
        # PyMySQL would make a context for every connection, 20 ms each, to talk to this very machine.
        return bare, {"ssl_disabled": True}
    return bare, {"ssl": _context(given, switches)} if given else {}


def _switch(name: str, word: str) -> bool:
    if word.lower() not in _WORDS:
        raise SettingsError(f"settings: DATABASE_URL: {name} must be true or false")
    return _WORDS[word.lower()]


def _context(files: dict[str, str], switches: dict[str, bool]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("ssl_ca"), capath=files.get("ssl_capath"))
        if "ssl_cert" in files:
            context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"))
    except (OSError, ValueError) as error:
        names = ", ".join(name for name in _FILES if name in files)
        raise SettingsError(f"settings: DATABASE_URL: cannot use {names}: {type(error).__name__}") from None
    # The certificates that MySQL makes for itself do not pass the strict check that newer Pythons begin with.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    verified = switches.get("ssl_verify_cert", True)
    context.check_hostname = verified and switches.get("ssl_verify_identity", True)
    context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    return context
