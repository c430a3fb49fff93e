"""Encryption of all that Temporal stores of our data: inputs, results, signals, queries, memos and failures.

Search attributes, workflow ids and the names of types and queues are not payloads of this kind and stay readable.
"""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
)

from calltasks.errors import SettingsError

ENCODING = b"binary/encrypted"
CIPHER = b"AES256GCM"
NONCE_BYTES = 12


class DecryptionError(SettingsError):
    """A payload cannot be decrypted: its key is not among ours, or it is not what was encrypted."""


class EncryptionCodec(PayloadCodec):
    """AES-256-GCM. Payloads that are not encrypted pass, so that runs survive its being switched on.

    Args:
        keys: key ids and 32-byte keys; the first encrypts, all decrypt. Not empty.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {key_id.encode(): AESGCM(key) for key_id, key in keys.items()}
        self._key_id, self._cipher = next(iter(self._ciphers.items()))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Each payload, its metadata included, encrypted by the first key."""
        return [self.encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Each payload as it was before :meth:`encode`.

        Raises:
            DecryptionError: the key is not among ours, or the payload was changed.
        """
        return [self.decrypted(payload) for payload in payloads]

    def encrypted(self, payload: Payload) -> Payload:
        """One payload, as :meth:`encode` does it."""
        nonce = os.urandom(NONCE_BYTES)
        data = nonce + self._cipher.encrypt(nonce, payload.SerializeToString(), self._key_id)
        metadata = {"encoding": ENCODING, "encryption-cipher": CIPHER, "encryption-key-id": self._key_id}
        return Payload(metadata=metadata, data=data)

    def decrypted(self, payload: Payload) -> Payload:
        """One payload, as :meth:`decode` does it."""
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        key_id = payload.metadata.get("encryption-key-id", b"")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise DecryptionError(f"no key {key_id[:64].decode('ascii', 'replace')!r} in PAYLOAD_ENCRYPTION_KEYS")
        try:
            plain = cipher.decrypt(payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:], key_id)
            return Payload.FromString(plain)
        except (InvalidTag, ValueError, DecodeError):
            raise DecryptionError(
                "an encrypted payload was changed, or encrypted by another key of the same id"
            ) from None


SEALED = "sealed:"


def sealed(text: str, keys: Mapping[str, bytes]) -> str:
    """A text as it is kept: encrypted if there are keys."""
    if not keys:
        return text
    payload = EncryptionCodec(keys).encrypted(Payload(data=text.encode()))
    return SEALED + base64.b64encode(payload.SerializeToString()).decode()


def opened(text: str, keys: Mapping[str, bytes]) -> str:
    """What was :func:`sealed`, also while there were no keys.

    Raises:
        DecryptionError: the key is not among ours.
    """
    if not text.startswith(SEALED):
        return text
    if not keys:
        raise DecryptionError("a secret is encrypted, and PAYLOAD_ENCRYPTION_KEYS is empty")
    payload = Payload.FromString(base64.b64decode(text.removeprefix(SEALED)))
    return EncryptionCodec(keys).decrypted(payload).data.decode()


def data_converter(keys: Mapping[str, bytes]) -> DataConverter:
    """Temporal's converter, which encrypts if there are keys. Then messages and stack traces of failures are too."""
    if not keys:
        return DataConverter.default
    return dataclasses.replace(
        DataConverter.default,
        payload_codec=EncryptionCodec(keys),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
