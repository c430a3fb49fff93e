"""Every parser of outside data, on anything at all: something usable, or its one declared error, never another."""

import json
import math
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pymysql.converters import escape_string

from calltasks.database.columns import Column
from calltasks.database.connection import bulks, to_json, translate
from calltasks.database.session import escaped
from calltasks.database.tables.rows import CallRow
from calltasks.errors import ServiceError
from calltasks.model import errors as analysis_errors
from calltasks.outcomes import outcome_of
from calltasks.platform import outbound_bot
from calltasks.platform import session as platform
from calltasks.platform.session import Attempt, Job, JobPage, ListedJob, contact_json, moment, readable_jobs
from calltasks.rules.follow_up_times import resolve
from calltasks.rules.judgement import InvalidAnswerError, fingerprint, question, read_answer, render
from calltasks.rules.pairing import lead_of
from calltasks.rules.row_ranges import count, pack, take, unpack
from calltasks.transcripts import transcript

ZONE = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 11, 18, 6, 5, tzinfo=UTC)
ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
"""Lone surrogates and NUL included: JSON can carry them."""
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats()
    | ANY_TEXT
    | st.sampled_from(["Succeeded", "Failed", "Executing", "SucceededFinish", "1", "", "13900000001", "\ud800", "\0"])
)
ANY = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4))


def shaped(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the names that the vendor uses, and anything at all in them."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    names = [name if name != "list_" else "List" for name in names]
    aliases = [name if name[0].isupper() else "".join(part.title() for part in name.split("_")) for name in names]
    return st.fixed_dictionaries({}, optional=dict.fromkeys(aliases, ANY))


class Columns:
    """The database's part in reading: what columns hold."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def column(self, table: str, name: str) -> Column:
        return Column(table=table, name=name, kind="text", declared="text", octets=self._limit, charset="utf8mb4")

    def whole(self, table: str, name: str, text: str) -> str:
        return self.column(table, name).whole(text)

    def wall_clock(self, value: datetime) -> datetime:
        return value.astimezone(ZONE).replace(tzinfo=None, microsecond=0)

    def moment(self, table: str, name: str, value: datetime | None) -> datetime | None:
        return None if value is None else self.wall_clock(value)


def row(status: str = "", conversation: str = "") -> CallRow:
    return CallRow(
        id=1,
        leads_id=1,
        call_job_id="job",
        reference_id="ref",
        phone="13900000001",
        call_status=status,
        conversation=conversation,
        planed_time=None,
        call_task_id="",
        calling_number="",
        updated_time=None,
        recording_url="",
        silent=True,
        followed=False,
        tries=0,
        since=None,
    )


# --- the platform ---------------------------------------------------------------------------------------------------


@given(ANY | shaped(platform.Envelope))
def test_an_envelope_is_read_or_a_service_error(body: Any) -> None:
    try:
        assert outbound_bot._checked("ListJobs", body) is body
    except ServiceError as error:
        assert len(str(error)) < 300 and str(error).isascii()


MODELS = [
    Job,
    Attempt,
    ListedJob,
    JobPage,
    platform._Groups,
    platform._DescribedGroup,
    platform._DownloadParams,
]


@pytest.mark.parametrize("model", MODELS)
def test_a_part_of_an_answer_is_read_or_a_service_error(model: type[platform.Body]) -> None:
    @given(ANY | shaped(model))
    def holds(value: Any) -> None:
        try:
            found = platform.read("ListJobs", model, value)
        except ServiceError as error:
            assert str(error) == "OutboundBot ListJobs: UnreadableAnswer"
        else:
            for text in _texts(
                found.model_dump(exclude={"tasks": {"__all__": {"conversation"}}, "conversation": True})
            ):
                text.encode()  # What is not UTF-8 would stop a whole batch at the database.

    holds()


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    return [text for inner in value for text in _texts(inner)] if isinstance(value, list) else []


def test_a_group_has_no_less_than_no_jobs() -> None:
    for count_ in (-1, -(10**12)):
        with pytest.raises(ServiceError):
            platform.read("QueryJobsWithResult", JobPage, {"RowCount": count_, "List": []})


@given(st.lists(shaped(Job).map(lambda job: job | {"JobId": "job"}), max_size=5), st.integers(4, 5000))
@settings(max_examples=300)
def test_any_job_makes_a_row_no_less(bodies: list[dict[str, Any]], limit: int) -> None:
    columns: Any = Columns(limit)
    for job in readable_jobs(bodies):
        known = json.dumps([{"Speaker": "Robot", "Script": "您好"}])
        for before in (row(), row("Failed"), row("Succeeded", known)):
            after = outcome_of(before, job, columns, NOW)
            assert after.call_status in ("", "Succeeded", "Failed", "Cancelled")
            assert before.call_status in ("", "Failed") or after.call_status == before.call_status
            assert not after.conversation or len(json.loads(after.conversation)) >= 1
            assert after.updated_time is not None and 1000 <= after.updated_time.year <= 9999
        assert job.call_status == job.status or not job.status


@given(st.integers() | st.integers(0, 10**17) | st.just(253402300799000) | st.none())
def test_any_time_is_a_time_that_columns_hold_or_none(milliseconds: int | None) -> None:
    found = moment(milliseconds)
    if found is not None:
        for zone in ("Asia/Shanghai", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
            wall = found.astimezone(ZoneInfo(zone))
            assert 1000 <= wall.year <= 9999


@given(st.lists(ANY, max_size=6), st.text(max_size=30) | st.just('[{"Speaker":"Robot"}]'), st.integers(2, 400))
def test_any_transcript_is_valid_json_or_left_out(turns: list[Any], known: str, limit: int) -> None:
    columns: Any = Columns(limit)
    text = transcript(turns, known, columns)
    if text:
        assert isinstance(json.loads(text, parse_constant=_no_constant), list)
        text.encode()


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_contact_is_json_as_the_platform_wants_it(phone: str, name: str, reference: str) -> None:
    contact = json.loads(contact_json(phone=phone, name=name, reference_id=reference))
    assert contact["contacts"][0] == {"phoneNumber": phone, "name": name, "referenceId": reference, "honorific": ""}


@given(st.integers(1, 99), ANY_TEXT)
def test_any_reference_names_one_lead_or_none(task_id: int, reference: str) -> None:
    assert isinstance(lead_of(reference), str)
    assert lead_of(f"task_{task_id}_lead_7") == "7"


class _Vendor(Exception):
    def __init__(self, code: Any, status: Any, message: str) -> None:
        super().__init__(message)
        self.code, self.status_code, self.request_id = code, status, "id"


@given(st.sampled_from([ValueError, OSError, RuntimeError, TimeoutError]), ANY_TEXT)
def test_any_exception_of_an_sdk_becomes_a_service_error_without_its_text(kind: type[Exception], text: str) -> None:
    for translated in (outbound_bot.translate(kind(text), "ListJobs"), analysis_errors.translate(kind(text))):
        assert isinstance(translated, ServiceError)
        assert len(text) < 12 or text not in str(translated)


# --- the model ------------------------------------------------------------------------------------------------------

ANSWERS = ANY | st.fixed_dictionaries(
    {"leads_remark": ANY, "is_interested": ANY},
    optional={name: ANY for name in ("next_follow_time", "evidence", "do_not_call", "wrong_number")},
)


@given(ANSWERS.map(lambda value: json.dumps(value)) | ANY_TEXT | ANY_TEXT.map(lambda text: f"```json\n{text}\n```"))
@settings(max_examples=400)
def test_any_answer_is_a_judgement_or_invalid(text: str) -> None:
    try:
        judgement = read_answer(text, called_at=NOW.astimezone(ZONE), transcript="客户：好的")
    except InvalidAnswerError as error:
        assert not str(error)
    else:
        assert judgement.is_interested in (0, 1, 2) and not isinstance(judgement.is_interested, bool)
        assert judgement.leads_remark.replace("\0", "").strip() and len(judgement.leads_remark) <= 2000
        assert judgement.evidence in "客户：好的" and judgement.do_not_call in "好的"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "9" * 10_000, '{"is_interested":' + "1" * 5000 + "}"]
)
def test_enormous_answers_are_invalid(text: str) -> None:
    with pytest.raises(InvalidAnswerError):
        read_answer(text, called_at=NOW.astimezone(ZONE), transcript="")


@given(ANY_TEXT, st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)))
def test_any_time_of_the_model_lies_ahead_or_is_none(text: str, called: datetime) -> None:
    for zone in ("Asia/Shanghai", "America/New_York", "Australia/Lord_Howe"):
        at = called.replace(tzinfo=ZoneInfo(zone))
        found = resolve(text, call_time=at)
        assert found is None or found.astimezone(UTC) > at.astimezone(UTC)


@given(ANY.map(lambda value: json.dumps(value)) | ANY_TEXT)
def test_any_stored_conversation_is_rendered_and_fingerprinted(text: str) -> None:
    lines = render(text)
    assert (
        all(line.startswith(("机器人：", "客户：")) or line == "……" for line in lines.splitlines())
        or len(lines) >= 24_000
    )
    assert len(fingerprint(lines)) == 64
    assert question(lines, NOW.astimezone(ZONE)).encode()


@given(st.lists(st.fixed_dictionaries({"Speaker": ANY_TEXT, "Script": ANY_TEXT}), max_size=4))
def test_what_is_said_cannot_pretend_to_be_another_speaker_or_the_end(turns: list[dict[str, str]]) -> None:
    lines = render(json.dumps(turns))
    assert "<" not in lines and ">" not in lines
    assert len(lines.split("\n")) <= max(1, len(turns))
    # What cannot be sent would keep all others of its piece back.
    assert lines.encode().decode() == lines and len(fingerprint(lines)) == 64


# --- in between -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 300)), st.integers(0, 400))
def test_runs_hold_exactly_the_ids(ids: list[int], size: int) -> None:
    runs = pack(ids)
    assert unpack(runs) == sorted(set(ids)) and count(runs) == len(set(ids))
    head, tail = take(runs, size)
    assert unpack(head) + unpack(tail) == sorted(set(ids)) and count(head) == min(size, len(set(ids)))


@given(st.lists(st.tuples(st.integers(), st.text(max_size=50)), max_size=30), st.integers(1, 7))
def test_bulks_lose_nothing(rows: list[tuple[int, str]], size: int) -> None:
    portions = list(bulks(rows, size))
    assert [row for portion in portions for row in portion] == rows
    assert all(1 <= len(portion) <= size for portion in portions)


@given(ANY)
def test_json_for_the_database_is_json_or_refused(value: Any) -> None:
    if _has_constant(value):
        with pytest.raises(ValueError):
            to_json(value)
    else:
        json.loads(to_json(value), parse_constant=_no_constant)


def _has_constant(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_has_constant(one) for one in inner)


@given(st.integers() | ANY_TEXT, ANY_TEXT)
def test_any_database_error_becomes_a_service_error_without_its_text(number: int | str, text: str) -> None:
    import pymysql

    failure = translate(pymysql.err.OperationalError(number, f"Duplicate entry '{text}13900000001'"), "_create")
    assert isinstance(failure, ServiceError) and "13900000001" not in str(failure)


@given(text=st.text() | st.text("\\'\"\n\r\0\x1a\u4e2d"))
def test_a_text_is_escaped_as_the_driver_does_it(text: str) -> None:
    assert escaped(text) == escape_string(text)
