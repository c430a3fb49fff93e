"""Settings: the one reader of the environment. Names and defaults are those of the README's table.

Each part of the product loads only the group that it needs, so that a worker for the database queue runs without a
model key. A missing or wrong value raises :class:`SettingsError`, one line that names the variable.
"""

from __future__ import annotations

from typing import Annotated, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """A setting is missing or wrong. ``str()`` is one line for the user that names the variable, never its value."""


def _mysql_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme != "mysql+pymysql" or not parts.hostname or len(parts.path) < 2:
        raise ValueError("must look like mysql+pymysql://user:password@host:port/database")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, IsADirectoryError):
        raise ValueError("is not a time zone of the IANA database, for example Asia/Shanghai") from None
    return value


def _base_url(value: str) -> str:
    if value and urlsplit(value).scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    return value


Secret = Annotated[SecretStr, Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]


class _Group(BaseSettings):
    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True)


class DatabaseSettings(_Group):
    """Where the CRM's tables are and in which zone its wall-clock columns are kept (SPEC, Tables)."""

    database_url: Annotated[SecretStr, AfterValidator(_mysql_url)]
    time_zone: Annotated[str, AfterValidator(_zone)] = "Asia/Shanghai"

    @property
    def zone(self) -> ZoneInfo:
        """The zone of every wall-clock column."""
        return ZoneInfo(self.time_zone)


class PlatformSettings(_Group):
    """Alibaba Cloud OutboundBot. ``outbound_bot_qps`` is calls per second, all workers together."""

    alibaba_cloud_access_key_id: Text
    alibaba_cloud_access_key_secret: Secret
    alibaba_cloud_security_token: SecretStr | None = None
    outbound_bot_instance_id: Text
    outbound_bot_region: str = "cn-shanghai"
    outbound_bot_script_id: str = ""
    outbound_bot_endpoint: str = ""
    outbound_bot_qps: Annotated[float, Field(gt=0)] = 50


class AnalysisSettings(_Group):
    """DashScope. ``analysis_qpm`` is calls per minute, all workers together; ``analysis_concurrency`` calls in
    flight in one worker."""

    dashscope_api_key: Secret
    dashscope_http_base_url: Annotated[str, AfterValidator(_base_url)] = "https://dashscope.aliyuncs.com/api/v1"
    analysis_model: Text = "qwen-plus"
    analysis_app_id: str = ""
    analysis_qpm: Annotated[float, Field(gt=0)] = 1200
    analysis_concurrency: Annotated[int, Field(ge=1, le=1000)] = 100


Group = TypeVar("Group", bound=_Group)


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
