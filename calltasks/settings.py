"""Settings: the one reader of the environment. Names and defaults are those of the README's table.

Each part of the product loads only the group that it needs, so that a worker for the database queue runs without a
model key. A missing or wrong value raises ``SettingsError``, one line that names the variable.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from calltasks.errors import SettingsError
from calltasks.platform import strategy

_SAFE = re.compile(r"[^A-Za-z0-9_]")
URL_PARAMETERS = (
    *("charset", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key"),
    *("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"),
)
"""Of DATABASE_URL (docs/security.md). The character set is utf8mb4 whatever it says."""


def _mysql_url(value: SecretStr) -> SecretStr:
    """The URL with its scheme in lower case."""
    # Who needs no database does not wait for it.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    scheme, _, rest = value.get_secret_value().partition("://")
    try:
        parts = urlsplit(f"{scheme.lower()}://{rest}")
        url = make_url(parts.geturl())
        (url.host or "").encode("idna")
        right = url.drivername == "mysql+pymysql" and url.host and url.database and url.port != 0
        right = right and ((url.host or "").lower(), url.port) == (parts.hostname, parts.port)
    except (ValueError, ArgumentError):
        right = False
    if not right:
        raise ValueError("must look like mysql+pymysql://user:password@host:port/database, odd characters as %XX")
    unknown = sorted(set(url.query) - set(URL_PARAMETERS))
    if unknown:
        raise ValueError(f"knows no parameter {_SAFE.sub('_', unknown[0])[:40]}, only {', '.join(URL_PARAMETERS)}")
    return SecretStr(parts.geturl())


def _endpoint(value: str) -> str:
    if value and not re.fullmatch(r"(https?://)?[A-Za-z0-9.-]+(:[0-9]{1,5})?/?", value):
        raise ValueError("must be like host or http://host:port")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be a time zone of the IANA database, for example Asia/Shanghai") from None
    return value


def _base_url(value: str) -> str:
    if value and urlsplit(value).scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if value and not urlsplit(value).hostname:
        raise ValueError("must name a host, as https://example.com does")
    return value


def encryption_keys(text: str) -> dict[str, bytes]:
    """``id:base64,id:base64`` as ids and keys, in that order; "" holds none. ValueError quotes no part of a key."""
    keys: dict[str, bytes] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, encoded = entry.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or len(key) != 32:
            raise ValueError("must be key-id:base64-key, separated by commas, each key 32 bytes")
        if name in keys:
            raise ValueError("names a key id twice")
        keys[name] = key
    return keys


def _keys(value: SecretStr) -> SecretStr:
    encryption_keys(value.get_secret_value())
    return value


def _origin(value: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", value):
        raise ValueError("must be like http://127.0.0.1:8233, without a path")
    return value


def _archive(value: str) -> str:
    url = urlsplit(value)
    if not value:
        return value
    if url.scheme not in ("file", "oss", "s3"):
        raise ValueError("must be file:///directory, oss://bucket/prefix or s3://bucket/prefix")
    if "@" in url.netloc or url.query or url.fragment:
        raise ValueError("must hold no password and no ? or #: it is part of every link that is stored")
    if url.scheme == "file" and (url.netloc or not url.path.strip("/")):
        raise ValueError("must name a directory by its whole path, such as file:///var/lib/recordings")
    if url.scheme in ("oss", "s3") and not url.netloc:
        raise ValueError(f"must name a bucket, such as {url.scheme}://bucket/prefix")
    return value.rstrip("/")


Secret = Annotated[SecretStr, Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]


class _Group(BaseSettings):
    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True)


class DatabaseSettings(_Group):
    """Where the CRM's tables are and in which zone its wall-clock columns are kept (rule 15.2)."""

    database_url: Annotated[SecretStr, AfterValidator(_mysql_url)]
    time_zone: Annotated[str, AfterValidator(_zone)] = "Asia/Shanghai"

    @property
    def zone(self) -> ZoneInfo:
        """The zone of every wall-clock column."""
        return ZoneInfo(self.time_zone)


def _strategy(value: Any) -> strategy.Strategy:
    return strategy.read(value) if isinstance(value, str) else value


class CallingSettings(_Group):
    """When the platform dials, where a start says nothing else. None: as its instance does (docs/calling-hours.md)."""

    outbound_bot_strategy: Annotated[strategy.Strategy | None, NoDecode, BeforeValidator(_strategy)] = None


class PlatformSettings(CallingSettings):
    """Alibaba Cloud OutboundBot. ``outbound_bot_qps`` is calls per second, all workers together."""

    alibaba_cloud_access_key_id: Text
    alibaba_cloud_access_key_secret: Secret
    alibaba_cloud_security_token: SecretStr | None = None
    outbound_bot_instance_id: Text
    outbound_bot_region: str = "cn-shanghai"
    outbound_bot_script_id: str = ""
    outbound_bot_endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    outbound_bot_qps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 50


class AnalysisSettings(_Group):
    """DashScope. ``analysis_qpm`` is calls per minute, all workers together; ``analysis_concurrency`` calls in
    flight in one worker; ``analysis_fallback_model`` answers while the model is not there any more;
    ``analysis_second_model`` is asked too, for people to compare, until a task has cost ``analysis_second_tokens``."""

    dashscope_api_key: Secret
    dashscope_http_base_url: Annotated[str, AfterValidator(_base_url)] = "https://dashscope.aliyuncs.com/api/v1"
    analysis_model: Text = "qwen-plus"
    analysis_app_id: str = ""
    analysis_fallback_model: str = ""
    analysis_second_model: str = ""
    analysis_second_tokens: Annotated[int, Field(ge=0, le=10**9)] = 1_000_000
    analysis_response_format: Literal["auto", "json_schema", "json_object"] = "auto"
    analysis_temperature: Annotated[float, Field(ge=0, lt=2, decimal_places=2)] | None = None
    analysis_max_tokens: Annotated[int, Field(ge=200, le=8192)] | None = None
    analysis_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    analysis_qpm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1200
    analysis_concurrency: Annotated[int, Field(ge=1, le=1000)] | None = None

    @property
    def under_way(self) -> int:
        """Calls under way in one worker: as set, or what the limit allows in 2.4 s, but room for slow answers."""
        return self.analysis_concurrency or int(min(1000, max(100, self.analysis_qpm / 60 * 2 * 1.2)))

    @property
    def of_second(self) -> AnalysisSettings | None:
        """Those of the second model, if there is one."""
        if not self.analysis_second_model:
            return None
        other = {"analysis_model": self.analysis_second_model, "analysis_second_model": ""}
        return self.model_copy(update=other | {"analysis_app_id": "", "analysis_fallback_model": ""})

    @property
    def sampling(self) -> dict[str, float]:
        """How the model is to choose its words, as far as it is set; part of a judgement's version."""
        given = {
            "temperature": self.analysis_temperature,
            "max_tokens": self.analysis_max_tokens,
            "seed": self.analysis_seed,
        }
        return {name: value for name, value in given.items() if value is not None}


class ArchiveSettings(_Group):
    """Where recordings are copied, and for how many days they are kept (docs/recordings.md). An empty archive: the
    vendor's own URLs are stored. The rest is for an ``oss://`` archive."""

    recording_archive: Annotated[str, AfterValidator(_archive)] = ""
    recording_retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    alibaba_cloud_access_key_id: str = ""
    alibaba_cloud_access_key_secret: SecretStr | None = None
    alibaba_cloud_security_token: SecretStr | None = None
    outbound_bot_region: str = "cn-shanghai"
    oss_endpoint: str = ""


Network = IPv4Network | IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """``10.20.0.0/16,fd00::/8`` as networks; "" holds none."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("must be networks, separated by commas, such as 10.20.0.0/16,fd00::/8") from None


def _networks(value: str) -> str:
    networks(value)
    return value


class EventSettings(_Group):
    """Where events may be sent beside public addresses, and without encryption; empty: nowhere (docs/events.md)."""

    events_networks: Annotated[str, AfterValidator(_networks)] = ""


class EncryptionSettings(_Group):
    """Encryption of what Temporal stores: the first key encrypts, every key decrypts; none: off (docs/security.md)."""

    payload_encryption_keys: Annotated[SecretStr, AfterValidator(_keys)] = SecretStr("")

    @property
    def keys(self) -> dict[str, bytes]:
        """Key ids and 32-byte keys, the one that encrypts first."""
        return encryption_keys(self.payload_encryption_keys.get_secret_value())


class CodecServerSettings(_Group):
    """The codec endpoint of the Temporal UI. ``codec_server_origin`` is the UI's address in the browser."""

    codec_server_token: Annotated[SecretStr, Field(min_length=16)]
    codec_server_origin: Annotated[str, AfterValidator(_origin)] = "http://127.0.0.1:8233"
    codec_server_host: Text = "127.0.0.1"
    codec_server_port: Annotated[int, Field(ge=0, le=65535)] = 8234


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token is good for: an organisation's tasks, to ``edit`` or only to ``read`` them."""

    organization_id: str
    role: Literal["edit", "read"] = "edit"


def _grants(value: Any) -> Any:
    """``{"token": "organization_id"}`` as grants by the SHA-256 digests of the tokens, which go no further."""
    try:
        tokens = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        tokens = None
    if not isinstance(tokens, dict) or not tokens:
        raise ValueError('must be a JSON object like {"token": "organization_id"}')
    if not all(token for token in tokens):
        raise ValueError("every token must be a text that is not empty")
    return {hashlib.sha256(token.encode("utf-8", "replace")).digest(): _grant(what) for token, what in tokens.items()}


def _grant(what: Any) -> Grant:
    given = {"organization_id": what} if isinstance(what, str) else what
    owner = given.get("organization_id") if isinstance(given, dict) else None
    if not isinstance(owner, str) or not owner:
        raise ValueError("every token and every organization_id must be a text that is not empty")
    role: Any = given.get("role", "edit")
    if role not in ("edit", "read") or given.keys() - {"organization_id", "role"}:
        raise ValueError('a token is for "organization_id", or {"organization_id": "organization_id", "role": "read"}')
    return Grant(organization_id=owner, role=role)


class ApiSettings(_Group):
    """The HTTP interface. ``api_tokens`` is read from JSON ``{"token": "organization_id"}``, or ``{"token":
    {"organization_id": …, "role": "read"}}``, and holds SHA-256 digests instead of the tokens. ``api_port`` 0 takes any
    free port."""

    api_tokens: Annotated[dict[bytes, Grant], NoDecode, BeforeValidator(_grants)]
    api_host: Text = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000


def _metrics_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
        right = bool(re.fullmatch(r"[0-9]{1,5}", port)) and 0 < int(port) < 65536
    except ValueError:
        right = False
    if value and not right:
        raise ValueError("must be an IP address and a port, such as 127.0.0.1:9464")
    return value


class LogSettings(_Group):
    """How a process logs."""

    log_format: Literal["text", "json"] = "text"


class TelemetrySettings(LogSettings):
    """What a worker tells about itself. ``metrics_address``: where Prometheus finds its metrics; empty: nowhere."""

    metrics_address: Annotated[str, AfterValidator(_metrics_address)] = ""


class TracingSettings(_Group):
    """Where traces go; empty: nowhere. OpenTelemetry's exporter reads this and its other variables itself."""

    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(_base_url)] = ""


Group = TypeVar("Group", bound=_Group)


def require(*groups: type[_Group]) -> None:
    """See that all these groups can be read, before anything is opened.

    Raises:
        SettingsError: one line that names every variable that is missing or wrong.
    """
    problems = []
    for group in groups:
        try:
            load(group)
        except SettingsError as error:
            problems.append(str(error).removeprefix("settings: "))
    if problems:
        raise SettingsError("settings: " + "; ".join(problems))


def load(group: type[Group]) -> Group:
    """Read one group of settings from the environment.

    Raises:
        SettingsError: naming every variable of the group that is missing or wrong.
    """
    try:
        return group()
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False, include_input=False):
            name = str(detail["loc"][0]).upper()
            reason = "is not set" if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, ")
            problems.append(f"{name} {reason}" if detail["type"] == "missing" else f"{name}: {reason}")
        raise SettingsError("settings: " + "; ".join(problems)) from None
