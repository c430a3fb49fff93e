"""Recordings: signed URLs that expire, and a little real audio behind them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

from simulators.calls import Draws
from simulators.options import ACCESS_KEY_ID, ACCESS_KEY_SECRET
from simulators.signature import ApiError
from simulators.world import World


class RecordingUrls:
    """Answers DownloadRecording and serves what its URLs name."""

    def __init__(self, world: World) -> None:
        self._world = world

    def answer(self, task_id: str, host: str) -> bytes:
        """The members of DownloadRecording's answer. What the platform says while there is no recording is
        documented nowhere; it is one of three forms here, by task."""
        found = self._world.find_attempt(task_id)
        if found is None:
            raise ApiError(404, "NotExist.Task", "The specified Task does not exist.")
        job, index = found
        if not job.attempts[index].connected or self._world.clock.now() < job.recording_at:
            form = job.recording_style % 3
            if form == 0:
                raise ApiError(200, "NotExist.Recording", "The specified recording does not exist.")
            return b'"DownloadParams":null' if form == 1 else b'"DownloadParams":{"FileName":"","SignatureUrl":""}'
        name = f"{task_id}.wav"
        expires = int(self._world.clock.url_time() + self._world.options.recording_url_ttl)
        signed = f"Expires={expires}&OSSAccessKeyId={ACCESS_KEY_ID}&Signature={_sign(name, expires)}"
        url = f"http://{host}/recordings/{name}?{signed}"
        return f'"DownloadParams":{{"FileName":"{name}","SignatureUrl":"{url}"}}'.encode()

    def serve(self, name: str, query: Mapping[str, str]) -> bytes:
        """The audio. Raises ApiError 403 for an expired or forged URL, 404 for no recording."""
        try:
            expires = int(query.get("Expires", ""))
        except ValueError:
            expires = 0
        if quote(query.get("Signature", ""), safe="") != _sign(name, expires):
            raise ApiError(403, "SignatureDoesNotMatch", "The request signature does not match.")
        if expires < self._world.clock.url_time():
            raise ApiError(403, "AccessDenied", "Request has expired.")
        task_id = name.removesuffix(".wav")
        if self._world.find_attempt(task_id) is None:
            raise ApiError(404, "NoSuchKey", "The specified key does not exist.")
        return _audio(task_id, self._world.options.recording_bytes)


def _sign(name: str, expires: int) -> str:
    text = f"GET\n\n\n{expires}\n/recordings/{name}".encode()
    digest = hmac.new(ACCESS_KEY_SECRET.encode(), text, hashlib.sha1).digest()
    return quote(base64.b64encode(digest).decode(), safe="")


@lru_cache(maxsize=256)
def _audio(task_id: str, mean: int) -> bytes:
    """A valid WAV file (8 kHz, 8 bit, mono) whose length and content depend on the task."""
    draws = Draws(task_id)
    length = max(2, int(mean * (0.5 + draws[0]))) & ~1
    samples = (hashlib.blake2b(task_id.encode()).digest() * (length // 64 + 1))[:length]
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data" + struct.pack("<I", length)
    return b"RIFF" + struct.pack("<I", 4 + len(header) + length) + b"WAVE" + header + samples
