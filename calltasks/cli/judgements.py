"""The commands of ``starter.py`` on the model's judgements: their history, their quality, making them anew."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from calltasks.call_tasks import CallTasks
from calltasks.cli.commands import Json, TaskId, Wait, app, fail, messages, run, show
from calltasks.database.tables.analyses import CallHistory
from calltasks.evaluation import conversations
from calltasks.evaluation.conversations import ConversationsError, Labelled
from calltasks.rules.reanalysis import Answer, Reanalysis, read

if TYPE_CHECKING:
    from calltasks.trial import Trial

INTERESTS = {None: "not judged", 0: "0 cannot tell", 1: "1 interested", 2: "2 not interested"}
LOCAL = ("localhost", "127.0.0.1", "::1")
REASONS = {"edited": "edited by a person", "deleted": "deleted by a person", "": ""}


@app.command("evaluate")
def evaluate(
    file: Annotated[
        Path | None, typer.Argument(help="Labelled conversations, JSON lines; without it, those of the project.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many, spread over the file.")] = None,
    from_corrections: Annotated[
        bool, typer.Option("--from-corrections", help="Those that people of an organisation have corrected.")
    ] = False,
    organization: Annotated[str, typer.Option(help="Whose corrections.")] = "",
    export: Annotated[
        Path | None, typer.Option(help="Write the corrections there, as JSON lines, and ask no model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put labelled conversations to the configured model and prompt; report how its judgements compare."""
    from calltasks.evaluation.scoring import evaluate as score

    if from_corrections != bool(organization) or (export and not from_corrections) or (file and from_corrections):
        fail("--from-corrections goes with --organization, and perhaps --export; a FILE goes alone", 2)
    labelled = _corrected(organization) if from_corrections else _labelled(file)
    if export is not None:
        _export(labelled, export, as_json)
        return
    if limit is not None and limit < len(labelled):
        labelled = [labelled[index * len(labelled) // limit] for index in range(limit)]

    async def use(calls: CallTasks) -> dict[str, Any]:
        with _progress("judging") as progress:
            return await score(calls.clients.model, labelled, advance=lambda: progress(len(labelled)))

    named = f"corrections of {organization}" if from_corrections else file
    named = named or conversations.SHIPPED.relative_to(Path(__file__).parents[2])
    report = {"file": str(named), **run(use, temporal=False)}
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        _show_report(report)
    if not report["judged"]:
        fail(f"nothing was judged: {report['errors'][0]['code'] if report['errors'] else 'every answer is invalid'}", 1)


def _labelled(file: Path | None) -> list[Labelled]:
    try:
        return conversations.load(file or conversations.SHIPPED)
    except ConversationsError as error:
        fail(str(error), 2)


def _corrected(organization: str) -> list[Labelled]:
    from calltasks.evaluation.corrections import lessons

    found: list[Labelled] = run(lambda calls: lessons(calls.database, organization), temporal=False)
    if not found:
        fail(f"nobody of {organization} has corrected a call that has a conversation", 1)
    return found


def _export(labelled: list[Labelled], file: Path, as_json: bool) -> None:
    try:
        file.write_text("".join(f"{one.model_dump_json()}\n" for one in labelled), "utf-8")
    except OSError as error:
        fail(f"--export {file}: {error.strerror}", 2)
    show({"file": str(file), "conversations": len(labelled)}, as_json, f"{len(labelled)} conversations in {file}")


@app.command("analyses")
def analyses(
    call_job_id: Annotated[str, typer.Argument(help="Job id of the call.")],
    as_json: Json = False,
) -> None:
    """Show every judgement of a call, and its follow-up as it stands."""

    async def use(calls: CallTasks) -> dict[str, Any] | None:
        found = await calls.analyses(call_job_id)
        return None if found is None else _history(found, calls)

    found = run(use, temporal=False)
    if found is None:
        fail(f"no call has the job id {call_job_id}", 1)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _show_history(found)


@app.command("force-analyze")
def force_analyze(
    task_id: TaskId,
    call_job_id: Annotated[list[str] | None, typer.Option(help="Job id of a call (repeatable).")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every call of the task.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Calls whose analysis failed.")] = False,
    interest: Annotated[int | None, typer.Option(min=0, max=2, help="Only calls that are judged so now.")] = None,
    since: Annotated[str, typer.Option(metavar="DAY", help="Only calls of this day and later.")] = "",
    until: Annotated[str, typer.Option(metavar="DAY", help="Only calls of this day and before.")] = "",
    prompt_version: Annotated[str, typer.Option(help="Only calls last judged with this prompt.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Stop before the next call once so much is spent.")] = (
        None
    ),
    override: Annotated[bool, typer.Option("--override", help="Replace what people edited or deleted, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would change.")] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Have calls judged again, while the task runs or after it ended. A filter alone means: of all calls."""
    narrowed = {"interest": interest, "since": since, "until": until, "prompt_version": prompt_version}
    filters = {name: value for name, value in narrowed.items() if value not in (None, "")}
    every = every or bool(filters and not call_job_id and not failed)
    chosen = {"call_job_ids": call_job_id, "all": every, "failed": failed}
    try:
        request = read({**chosen, **filters, "override": override, "max_tokens": max_tokens})
    except ValueError as error:
        fail(str(error), 2)
    if dry_run and wait:
        fail("--wait has no meaning with --dry-run, which always waits", 2)
    if dry_run:
        _try_out(task_id, request, as_json)
        return

    async def use(calls: CallTasks) -> tuple[dict[str, Any], Answer | None]:
        request_id = await calls.force_analyze(task_id, request)
        if not wait:
            return {"task_id": task_id, "requested": True}, None
        return await calls.analysed_again(task_id), await calls.reanalysis(task_id, request_id)

    result, answer = run(use)
    if answer is not None:
        result["reanalysis"] = dataclasses.asdict(answer)
        if said := answer.sayings():
            messages.print(said, highlight=False)
    show(result, as_json, f"{result['reanalysed']} calls judged again so far" if wait else "requested")


def _try_out(task_id: int, request: Reanalysis, as_json: bool) -> None:
    from calltasks.trial import try_out

    async def use(calls: CallTasks) -> Trial:
        with _progress("judging") as progress:
            return await try_out(calls.database, calls.clients.model, await calls.task(task_id), request, progress)

    trial: Trial = run(use, temporal=False)
    if trial.over_ceiling:
        spent = trial.input_tokens + trial.output_tokens
        messages.print(f"{spent} tokens were spent; calls not judged: {trial.over_ceiling}", highlight=False)
    if as_json:
        print(json.dumps({"dry_run": True, **dataclasses.asdict(trial)}, ensure_ascii=False, default=str))
    else:
        _show_trial(trial)


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """Yields a function to be called with the whole number after each of them."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda total: bar.update(task, total=total, advance=1)


def _show_report(report: dict[str, Any]) -> None:
    out = Console(highlight=False, markup=False)
    interest, times = report["interest"], report["next_time"]
    asked = f"model {report['model']} at {report['endpoint']}, prompt {report['prompt_version']}"
    out.print(f"{asked}, {report['conversations']} conversations")
    if urlsplit(report["endpoint"]).hostname in LOCAL:
        out.print("A model on this machine: a simulated one shows that the parts work together, and")
        out.print("says nothing about judgements of real calls.")
    out.print(f"interest: {interest['right']} of {interest['of']} right ({_percent(interest['accuracy'])})")
    confusion = Table("labelled \\ judged", "0", "1", "2", "invalid", "error")
    for label, row in interest["confusion"].items():
        confusion.add_row(INTERESTS[int(label)], *(str(count or "") for count in row.values()))
    out.print(confusion)
    kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in times.items() if kind != "accuracy")
    out.print(f"next time: {_percent(times['accuracy'])} right: {kinds}")
    for name in ("do_not_call", "wrong_number"):
        found = dict(report[name])
        shares = ", ".join(f"{kind} {_percent(found.pop(kind))}" for kind in ("precision", "recall"))
        counts = ", ".join(f"{count} {kind}" for kind, count in found.items())
        out.print(f"{name.replace('_', ' ')}: {shares}: {counts}")
    if report["disagreements"]:
        table = Table("conversation", "labelled", "judged", _folded("evidence"), title="disagreements")
        for one in report["disagreements"]:
            table.add_row(one["id"], _opinion(one["expected"]), _opinion(one["got"]), one["evidence"])
        out.print(table)
    if report["invalid"]:
        out.print(f"invalid answers: {', '.join(report['invalid'])}")
    if report["errors"]:
        out.print("errors: " + ", ".join(f"{error['id']} ({error['code']})" for error in report["errors"]))
    tokens = f"{report['input_tokens']} input and {report['output_tokens']} output tokens"
    out.print(f"cost: {report['calls']} calls, {tokens}, {report['seconds']} s")


def _history(found: CallHistory, calls: CallTasks) -> dict[str, Any]:
    there = found.follow_up
    follow_up = None
    if there.follow_id:
        follow_up = {
            "id": there.follow_id,
            "deleted": there.change == "deleted",
            "edited": there.change == "edited",
            "leads_remark": there.leads_remark,
            "next_follow_time": _text(there.next_follow_time),
        }
    zone, judged = calls.database.zone, []
    for one in found.analyses:
        written = one.created_at.replace(tzinfo=UTC).astimezone(zone).isoformat(timespec="seconds")
        texts = {"next_follow_time": _text(one.next_follow_time), "created_at": written}
        judged.append(dataclasses.asdict(one) | texts)
    return {
        **{name: getattr(found, name) for name in ("call_job_id", "task_id", "list_id", "call_status")},
        "called_at": _text(found.called_at),
        "is_interested": there.is_interested,
        "follow_up": follow_up,
        "analyses": judged,
    }


def _show_history(found: dict[str, Any]) -> None:
    out = Console(highlight=False, markup=False)
    called = f"called at {found['called_at']}" if found["called_at"] else "never called"
    out.print(f"call {found['call_job_id']} of task {found['task_id']}: {found['call_status'] or 'open'}, {called}")
    table = Table(
        "judged at", "by request", "interest, next time", _folded("remark, evidence, refusal"), "model", "tokens"
    )
    for one in found["analyses"]:
        evidence = f"\n“{one['evidence']}”" if one["evidence"] else ""
        special = "".join(f"\n{line}" for line in _special(one["do_not_call"], one["wrong_number"]))
        table.add_row(
            one["created_at"][:19].replace("T", "\n"),
            "\n".join(filter(None, (one["request_id"][:8] or "first", one["outcome"], one["error_code"]))),
            f"{INTERESTS[one['is_interested']]}\n{one['next_follow_time'] or ''}",
            one["leads_remark"] + evidence + special,
            f"{one['model']}\nprompt {one['prompt_version']}\ntext {one['transcript_hash'][:8]}"
            if one["model"]
            else "",
            str(one["input_tokens"] + one["output_tokens"]),
        )
    out.print(table if found["analyses"] else "no judgement: there was nothing to judge, or it is still to come")
    now = found["follow_up"]
    if now is None:
        out.print("follow-up: none yet")
    elif now["deleted"]:
        out.print(f"follow-up {now['id']}: deleted by a person")
    else:
        edited = ", edited by a person" if now["edited"] else ""
        out.print(f"follow-up {now['id']}{edited}: {INTERESTS[found['is_interested']]}, {_next(now)}")
        out.print(now["leads_remark"])


def _show_trial(trial: Trial) -> None:
    table = Table("call", "of", "would", "interest", "next time", _folded("remark"), title="nothing was changed")
    for change in trial.changes:
        special = _special(change.do_not_call, change.wrong_number)
        if change.action == "same" and not special:
            continue
        before, after = change.before, change.after
        reason = REASONS[change.edit] or change.error_code
        table.add_row(
            change.call_job_id,
            f"{change.called_at:%m-%d}" if change.called_at else "",
            change.action + (f"\n({reason})" if reason else ""),
            _arrow(before and before.is_interested, after.is_interested),
            _arrow(before and before.next_follow_time, after.next_follow_time),
            "\n".join([after.leads_remark, *special]),
        )
    out = Console(highlight=False, markup=False)
    if table.row_count:
        out.print(table)
    done = ", ".join(f"{trial.by_action[action]} {action}" for action in sorted(trial.by_action)) or "nothing to do"
    out.print(f"{trial.selected} calls: {done}; {trial.input_tokens} input and {trial.output_tokens} output tokens")


def _special(do_not_call: str, wrong_number: bool) -> list[str]:
    """What is said of a call beside its interest: that nobody shall call again, or that it is not the lead's number."""
    return [*([f"do not call: “{do_not_call}”"] if do_not_call else []), *(["wrong number"] if wrong_number else [])]


def _folded(name: str) -> Column:
    """A column of Chinese text: without spaces to break at, it would be cut off."""
    return Column(name, overflow="fold", ratio=1)


def _arrow(before: Any, after: Any) -> str:
    old, new = (
        "-" if value is None else f"{value:%m-%d %H:%M}" if isinstance(value, datetime) else str(value)
        for value in (before, after)
    )
    return new if old == new else f"{old} → {new}"


def _opinion(one: dict[str, Any]) -> str:
    return "\n".join([f"{one['is_interested']}, {_next(one)}", *_special(one["do_not_call"], one["wrong_number"])])


def _next(one: dict[str, Any]) -> str:
    return f"next {one['next_follow_time']}" if one["next_follow_time"] else "no next time"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else str(moment)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
