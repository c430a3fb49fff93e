"""Verification of Alibaba Cloud's request signature, version 3 (ACS3-HMAC-SHA256)."""

from __future__ import annotations

import hashlib
import hmac
import time
from calendar import timegm
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, unquote_plus

ALGORITHM = "ACS3-HMAC-SHA256"
EMPTY_HASH = hashlib.sha256(b"").hexdigest()
_MUST_BE_SIGNED = (
    "host",
    "x-acs-action",
    "x-acs-version",
    "x-acs-date",
    "x-acs-signature-nonce",
    "x-acs-content-sha256",
)


class ApiError(Exception):
    """An answer of status `status` (400..599) with the vendor's error `code`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


class SignatureCheck:
    """Checks requests against one access key; remembers nonces to refuse repeated requests."""

    def __init__(self, key_id: str, secret: str, skew: float) -> None:
        self._key_id = key_id
        self._secret = secret.encode()
        self._skew = skew
        self._nonces: dict[str, None] = {}

    def verify(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        """Raises ApiError as the platform does: missing parts, unknown key, wrong signature, old date, used nonce."""
        signed, signature = self._credentials(headers.get("Authorization", ""))
        for name in _MUST_BE_SIGNED:
            if name not in headers:
                raise ApiError(400, f"Missing{name}", f"{name} is mandatory for this action.")
            if name not in signed:
                raise ApiError(400, "IncompleteSignature", f"The header {name} is not signed.")
        payload = headers["x-acs-content-sha256"]
        if payload != (hashlib.sha256(body).hexdigest() if body else EMPTY_HASH):
            raise ApiError(400, "InvalidContentSha256", "x-acs-content-sha256 does not fit the body.")
        path, _, query = target.partition("?")
        canonical_headers = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in signed)
        tail = f"{canonical_headers}\n{';'.join(signed)}\n{payload}"
        # Clients that encode as the vendor's SDK does need no decoding; the careful way is for all others.
        for canonical_query in (_recoded, _reencoded):
            request = f"{method}\n{path}\n{canonical_query(query)}\n{tail}"
            text = f"{ALGORITHM}\n{hashlib.sha256(request.encode()).hexdigest()}"
            if hmac.compare_digest(hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest(), signature):
                break
        else:
            raise ApiError(400, "SignatureDoesNotMatch", "Specified signature does not match our calculation.")
        self._check_date(headers["x-acs-date"])
        self._check_nonce(headers["x-acs-signature-nonce"])

    def _credentials(self, authorization: str) -> tuple[list[str], str]:
        algorithm, _, rest = authorization.partition(" ")
        parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        if algorithm != ALGORITHM or not {"Credential", "SignedHeaders", "Signature"} <= parts.keys():
            raise ApiError(400, "IncompleteSignature", "The request signature does not conform to the standards.")
        if parts["Credential"] != self._key_id:
            raise ApiError(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        return parts["SignedHeaders"].split(";"), parts["Signature"]

    def _check_date(self, text: str) -> None:
        try:
            moment = _unix(text)
        except ValueError:
            raise ApiError(400, "InvalidTimeStamp.Format", "Specified time stamp is not well formatted.") from None
        if abs(time.time() - moment) > self._skew:
            raise ApiError(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")

    def _check_nonce(self, nonce: str) -> None:
        if nonce in self._nonces:
            raise ApiError(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces[nonce] = None
        if len(self._nonces) > 20_000:
            del self._nonces[next(iter(self._nonces))]


@lru_cache(maxsize=64)
def _unix(text: str) -> int:
    return timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def _recoded(query: str) -> str:
    parts = query.replace("+", "%20").split("&")
    parts.sort(key=_name)
    return "&".join(parts)


def _name(part: str) -> str:
    return part.partition("=")[0]


def _reencoded(query: str) -> str:
    pairs = [part.partition("=") for part in query.split("&") if part]
    decoded = sorted((unquote_plus(name), unquote_plus(value)) for name, _, value in pairs)
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in decoded)
