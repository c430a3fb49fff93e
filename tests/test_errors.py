"""One tree of errors: each carries what a door needs, and the doors add nothing."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.client import WorkflowQueryFailedError

import calltasks
from calltasks import call_tasks, errors
from calltasks.api.answers import answer_to
from calltasks.errors import CallTasksError, PassingError, PermanentError, ending
from calltasks.platform.errors import refusal

PROJECT = Path(__file__).resolve().parent.parent
ANSWERS = [
    (errors.SettingsError("settings: X is not set"), 2, 500, 500),
    (errors.SchemaError("a table is missing"), 2, 500, 500),
    (errors.WrongUseError("not both"), 2, 400, 400),
    (errors.ForeignOrganizationError(), 2, 403, 403),
    (errors.UnknownTaskError(42), 1, 404, 404),
    (errors.UnknownLeadsError([7]), 1, 404, 404),
    (errors.NoLeadIdError(["x"]), 2, 404, 404),
    (errors.UnknownOptOutError(), 1, 404, 404),
    (errors.NotRunningError(42), 1, 409, 409),
    (errors.NoJobIdsError(42), 1, 409, 4009),
    (errors.NotStartedError(42), 1, 409, 4009),
    (errors.NoWorkerError(), 1, 503, 503),
    (errors.RunFailedError("refused"), 1, 500, 500),
    (PassingError("OutboundBot", "ListJobs", "Throttling.User"), 1, 502, 5003),
    (refusal("ListJobs", "Forbidden", 403, ""), 2, 502, 5003),
    (refusal("ListJobs", "NotExist.Job", 404, ""), 1, 502, 5003),
    (PassingError("MySQL", "connect", "2003"), 1, 503, 503),
    (PermanentError("MySQL", "connect", "1045"), 2, 503, 503),
    (PermanentError("MySQL", "create", "1406"), 1, 400, 400),
    (errors.TemporalError("UNAVAILABLE", "no connection"), 1, 503, 503),
]


def kinds(of: type[CallTasksError]) -> Iterator[type[CallTasksError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


@pytest.mark.parametrize(("error", "exit_code", "status", "code"), ANSWERS, ids=lambda one: type(one).__name__)
def test_every_door_shows_an_error_alike(
    error: CallTasksError, exit_code: int, status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, ending("starter"):
        raise error
    assert ended.value.code == exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"starter: {error}") and said.count("\n") == 1
    answer = answer_to(error)
    assert answer is not None and (answer.status_code, json.loads(bytes(answer.body))["code"]) == (status, code)
    assert status != 500 or str(error) not in bytes(answer.body).decode()


def test_a_query_that_a_worker_fails_at_is_an_outage_and_no_unexpected_error() -> None:
    with pytest.raises(errors.TemporalError, match="its log says why") as raised, call_tasks._answers():
        raise WorkflowQueryFailedError("what a workflow says stays there")
    answer = answer_to(raised.value)
    assert answer is not None and answer.status_code == 503


def test_the_tree_is_told_whole_and_documented() -> None:
    for path in sorted((PROJECT / "calltasks").rglob("*.py")):
        if re.search(r"^class \w+\(\w*Error\)", path.read_text("utf-8"), re.MULTILINE):
            importlib.import_module(str(path.relative_to(PROJECT).with_suffix("")).replace("/", "."))
    told = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    found = {kind.__name__ for kind in kinds(CallTasksError) if kind.__module__.startswith("calltasks.")}
    assert found == set(told)
    documented = set(re.findall(r"^\| (\d{3}) \|", (PROJECT / "docs/http.md").read_text("utf-8"), re.MULTILINE))
    assert {str(status) for _, _, status, _ in ANSWERS} <= documented


def test_a_backend_finds_the_errors_that_it_catches() -> None:
    for name in ("CallTasksError", "UnknownTaskError", "NotRunningError", "ServiceError", "SettingsError"):
        assert getattr(calltasks, name) is getattr(errors, name)
    with pytest.raises(AttributeError):
        _ = calltasks.NoSuchError
