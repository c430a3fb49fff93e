"""The environment is read once, and what is wrong with it is one line that names the variable and no value."""

from typing import Any

import pytest

from calltasks.errors import SettingsError
from calltasks.settings import AnalysisSettings, DatabaseSettings, PlatformSettings, load, require

DATABASE = "mysql+pymysql://crm:hidden-word@db.example:3306/crm"
PLATFORM = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "key-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "hidden-word",
    "OUTBOUND_BOT_INSTANCE_ID": "instance",
}


def put(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_defaults_are_those_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DATABASE_URL=DATABASE, DASHSCOPE_API_KEY="hidden-word", **PLATFORM)
    platform, analysis = load(PlatformSettings), load(AnalysisSettings)
    assert load(DatabaseSettings).zone.key == "Asia/Shanghai"
    assert (platform.outbound_bot_region, platform.outbound_bot_qps) == ("cn-shanghai", 50)
    assert (analysis.analysis_model, analysis.analysis_app_id, analysis.analysis_qpm) == ("qwen-plus", "", 1200)
    assert analysis.dashscope_http_base_url == "https://dashscope.aliyuncs.com/api/v1"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DATABASE_URL=DATABASE, TIME_ZONE="", OUTBOUND_BOT_QPS="", OUTBOUND_BOT_REGION="", **PLATFORM)
    assert load(DatabaseSettings).time_zone == "Asia/Shanghai"
    assert (load(PlatformSettings).outbound_bot_qps, load(PlatformSettings).outbound_bot_region) == (50, "cn-shanghai")
    put(monkeypatch, DATABASE_URL="")
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        load(DatabaseSettings)


def test_everything_that_is_missing_is_named_in_one_line() -> None:
    with pytest.raises(SettingsError) as error:
        require(DatabaseSettings, PlatformSettings, AnalysisSettings)
    text = str(error.value)
    assert "\n" not in text
    for name in ("DATABASE_URL", *PLATFORM, "DASHSCOPE_API_KEY"):
        assert f"{name} is not set" in text


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        (DatabaseSettings, "DATABASE_URL", "mysql://crm:hidden-word@db/crm"),
        (DatabaseSettings, "DATABASE_URL", "mysql+pymysql://crm:hidden-word@db"),
        (DatabaseSettings, "DATABASE_URL", "hidden-word"),
        (DatabaseSettings, "DATABASE_URL", "mysql+pymysql://crm:hidden-word@db:hidden-word/crm"),
        (DatabaseSettings, "DATABASE_URL", "mysql+pymysql://crm:hidden-word@db:99999/crm"),
        (DatabaseSettings, "DATABASE_URL", "mysql+pymysql://[hidden-word/crm"),
        (DatabaseSettings, "DATABASE_URL", "mysql+pymysql://crm:hidden-word@db/crm?ssl_mode=REQUIRED"),
        (DatabaseSettings, "DATABASE_URL", "mysql+pymysql://crm:hidden-word@db/crm?unix_socket=hidden-word"),
        (DatabaseSettings, "TIME_ZONE", "Mars/hidden-word"),
        (DatabaseSettings, "TIME_ZONE", "/etc/hidden-word"),
        (PlatformSettings, "OUTBOUND_BOT_QPS", "hidden-word"),
        (PlatformSettings, "OUTBOUND_BOT_QPS", "0"),
        (PlatformSettings, "OUTBOUND_BOT_QPS", "-5"),
        (PlatformSettings, "OUTBOUND_BOT_QPS", "nan"),
        (PlatformSettings, "OUTBOUND_BOT_QPS", "inf"),
        (PlatformSettings, "OUTBOUND_BOT_ENDPOINT", "ftp://hidden-word"),
        (PlatformSettings, "OUTBOUND_BOT_ENDPOINT", "http://"),
        (AnalysisSettings, "ANALYSIS_QPM", "many"),
        (AnalysisSettings, "ANALYSIS_QPM", "nan"),
        (AnalysisSettings, "DASHSCOPE_HTTP_BASE_URL", "dashscope.example/api/v1"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, group: Any, name: str, value: str
) -> None:
    put(monkeypatch, DATABASE_URL=DATABASE, DASHSCOPE_API_KEY="hidden-word", **PLATFORM)
    put(monkeypatch, **{name: value})
    with pytest.raises(SettingsError) as error:
        load(group)
    text = str(error.value)
    assert name in text and "\n" not in text
    assert "hidden-word" not in text and "hidden-word" not in repr(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_no_settings_object_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DATABASE_URL=DATABASE, DASHSCOPE_API_KEY="hidden-word",
        ALIBABA_CLOUD_SECURITY_TOKEN="hidden-word", **PLATFORM)  # fmt: skip
    for group in (DatabaseSettings, PlatformSettings, AnalysisSettings):
        assert "hidden-word" not in repr(load(group)) + str(load(group)) + load(group).model_dump_json()
