"""How a row stands and what it lacks, said once (rules 3 to 8): the review hands out by these conditions, and the
activities take by them, so they cannot disagree about a row.

All conditions are on ``leads_task_list l``. Our retries of a row stand beside it: ``c`` of a transcript that is not
there yet, ``o`` of an outcome that the database has not taken, ``a`` of an analysis, ``r`` of a recording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from calltasks import names
from calltasks.rules.row_ranges import Ranges

# --- statuses ---------------------------------------------------------------------------------------------------

_BLANKS = " \t\r\n\u00a0\u3000"
_NO_BLANKS = dict.fromkeys(map(ord, _BLANKS))
_BY_FOLDED = {status.lower(): status for status in names.FINAL}


def final_status(status: str) -> str:
    """The final status that a text stands for, as the platform spells it; ``""`` if it is none."""
    return status if status in names.FINAL else _BY_FOLDED.get(status.translate(_NO_BLANKS).lower(), "")


def folded_sql(column: str) -> str:
    """As :func:`final_status` compares, byte by byte, whatever the column's type, character set or collation."""
    text = f"CONVERT(COALESCE({column}, '') USING utf8mb4)"
    for blank in _BLANKS:
        text = f"REPLACE({text}, '{blank}', '')"
    return f"CAST(LOWER({text}) AS BINARY)"


def is_final(alias: str = "l") -> str:
    """The row has its outcome."""
    return _is(names.FINAL, f"{alias}.call_status")


def is_status(status: str, alias: str = "l") -> str:
    """The row has this outcome."""
    return _is((status,), f"{alias}.call_status")


def _is(statuses: tuple[str, ...], column: str) -> str:
    # Nearly all are spelled as the platform does, and folding is the dearest thing that a review does.
    spelled = "".join(f" WHEN '{known}' THEN {known in statuses}" for known in names.FINAL)
    folded = ", ".join(f"'{status.lower()}'" for status in statuses)
    return (
        f"(CASE COALESCE(CAST(CONVERT({column} USING utf8mb4) AS BINARY), '') WHEN '' THEN FALSE{spelled}"
        f" ELSE {folded_sql(column)} IN ({folded}) END)"
    )


NO_TURNS = ("", "null", "[]", "{}", '""')
"""Conversations in which nobody says anything: a column of type JSON has no empty text."""


def silent(alias: str = "l") -> str:
    """The row has no transcript."""
    column = f"{alias}.call_conversation"
    # Nearly all are long, and their length costs nothing.
    return f"(COALESCE(LENGTH({column}), 0) < 40 AND {folded_sql(column)} IN {NO_TURNS})"


# --- how rows stand ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """How many rows of a task stand alike. Empty text stands for NULL; final statuses as rule 4.3 spells them."""

    called: bool
    matchable: bool
    status: str
    interest: int | None
    followed: bool
    has_recording_id: bool
    recorded: bool
    count: int

    @property
    def over(self) -> bool:
        """The rows have their outcome."""
        return self.status in names.FINAL

    @property
    def judged(self) -> bool:
        """The rows have a follow-up, and it is judged."""
        return self.followed and self.interest is not None

    @property
    def unrecorded(self) -> bool:
        """The calls were recorded, and it is not known where."""
        return self.status == names.SUCCEEDED and self.has_recording_id and not self.recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the rows of a task stand, in numbers.

    Attributes:
        leads: rows of the task.
        called: rows with a job id; ``unmatched`` those without; ``unsettled`` those of them that may still get one.
        finished: called rows with a final status.
        recordings: rows with a recording's URL; ``recordings_missing`` succeeded rows without.
        follow_ups: called rows with a follow-up; ``unjudged`` called rows without one or without ``is_interested``.
    """

    leads: int
    called: int
    unmatched: int
    unsettled: int
    finished: int
    unjudged: int
    by_status: dict[str, int]
    by_interest: dict[str, int]
    recordings: int
    recordings_missing: int
    follow_ups: int

    @property
    def calls_over(self) -> bool:
        """Job ids are settled, and every called row has its outcome."""
        return not self.unsettled and self.finished == self.called

    @property
    def judged(self) -> bool:
        """Every called row has its outcome and its judged follow-up."""
        return self.calls_over and not self.unjudged

    def reached(self, task_type: int) -> int:
        """The ``task_type`` that is due (rule 8): it only rises."""
        if task_type < 2 or not self.called or not self.calls_over:
            return task_type
        return max(task_type, 4 if self.judged else 3)


def standing(groups: Sequence[RowGroup], *, in_group: bool) -> Standing:
    """The rows in numbers. ``in_group``: the task has a job group, from which a row may get its job."""
    by_status: Counter[str] = Counter()
    by_interest = Counter({"0": 0, "1": 0, "2": 0})
    for one in groups:
        by_status[one.status] += one.count
        if one.called and one.interest is not None:
            by_interest[str(one.interest)] += one.count

    def rows(holds: Callable[[RowGroup], bool]) -> int:
        return sum(one.count for one in groups if holds(one))

    return Standing(
        leads=rows(lambda one: True),
        called=rows(lambda one: one.called),
        unmatched=rows(lambda one: not one.called),
        unsettled=rows(lambda one: in_group and not one.called and one.matchable and not one.over),
        finished=rows(lambda one: one.called and one.over),
        unjudged=rows(lambda one: one.called and not one.judged),
        by_status={status: count for status, count in by_status.items() if status},
        by_interest=dict(by_interest),
        recordings=rows(lambda one: one.called and one.recorded),
        recordings_missing=rows(lambda one: one.called and one.unrecorded),
        follow_ups=rows(lambda one: one.called and one.followed),
    )


def follow_id(alias: str = "l") -> str:
    """The follow-up that the row points to, 0 if to none; a text column takes words too (``-``), which name none."""
    return f"GREATEST(COALESCE(CAST({alias}.leads_follow_id AS SIGNED), 0), 0)"


def interest_of(value: Any) -> int | None:
    """What ``is_interested`` says, whatever the column's type; None if nobody has judged the call.

    A word that is no number (a text column takes any) is somebody's all the same: it says that nobody can tell.
    """
    text = "" if value is None else str(value).strip(" ")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        return 0


# --- what holds of a row ----------------------------------------------------------------------------------------

CALL_TIMES = ("call_time", "planed_time", "updated_time")
"""Of ``leads_task_list``: an UPDATE that does not write one says that it is unchanged, for ``ON UPDATE`` would."""
UNJUDGED = "TRIM(COALESCE(l.is_interested, '')) = ''"
"""As :func:`interest_of` reads it: compared as a text, 0 is not empty."""
CALLED = "COALESCE(l.call_job_id, '') <> ''"
HAS_SUCCEEDED = is_status(names.SUCCEEDED)
UNLINKED = f"{follow_id()} = 0"
RECORDED = "COALESCE(l.recording_url, '') <> ''"
HAS_RECORDING_ID = "COALESCE(l.call_task_id, '') <> ''"
MATCHABLE_SQL = (
    "(COALESCE(reference_id, '') <> '' OR CONVERT(COALESCE(leads_phone, '') USING utf8mb4) REGEXP '[0-9０-９]')"
)
"""Rows that a job can be found for: what has no reference and no digit in its phone field (``无``, a line break) waits
for nothing (rule 3.7)."""


def _retry(alias: str, step: str) -> str:
    return f" LEFT JOIN call_retries {alias} ON {alias}.list_id = l.id AND {alias}.step = '{step}'"


CALL_RETRIES = _retry("c", "conversation") + _retry("o", "outcome") + " AND o.error_code <> ''"
TRANSCRIPT_EXPECTED = (
    f"({is_final()} AND {silent()} AND {UNLINKED} AND (o.list_id IS NOT NULL"
    f" OR IF(c.list_id IS NULL, {HAS_SUCCEEDED}, c.retry_at < c.since + INTERVAL %s SECOND)))"
)
"""What is not there yet is asked for while its next try lies within its grace (seconds). The grace of whoever has
spoken begins in the transaction that saves the outcome; of a row that others wrote the status alone tells it. A
transcript that the database does not take is there all the same: its call is not one without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What rows lack of one step.

    Attributes:
        condition: which of the task's called rows ``l`` lack it.
        parameters: of the condition, in their order: ``unfinished`` (calls that nobody has set aside are looked at
            too), or the name of an option.
        joins: what the condition depends on.
        due: when the next try is due, NULL for at once.
        tries: how many there were.
        may: whether rows that stand like these can lack it: where none can, nothing is looked for.
    """

    condition: str
    parameters: tuple[str, ...] = ()
    joins: str = ""
    due: str = "NULL"
    tries: str = "0"
    may: Callable[[RowGroup], bool] = lambda _: True

    @property
    def rows(self) -> str:
        """``FROM … WHERE …``; parameters: the task, then the condition's."""
        return f" FROM leads_task_list l{self.joins} WHERE l.task_id = %s AND {CALLED} AND {self.condition}"

    @property
    def due_now(self) -> str:
        """Of these rows those whose try is due; parameter: now, UTC."""
        return f"COALESCE({self.due} <= %s, TRUE)"


CONVERSATION = Need(
    condition=f"((NOT {is_final()} AND (%s OR o.list_id IS NOT NULL)) OR {TRANSCRIPT_EXPECTED})",
    parameters=("unfinished", "conversation_grace"),
    joins=CALL_RETRIES,
    due=f"COALESCE(o.retry_at, IF({is_final()}, c.retry_at, NULL))",
    tries="COALESCE(c.tries, 0) + COALESCE(o.tries, 0)",
    may=lambda group: not (group.over and group.judged),
)
FOLLOW_UP = Need(
    condition=f"({is_final()} AND ({UNLINKED} OR {UNJUDGED}) AND NOT {TRANSCRIPT_EXPECTED})",
    parameters=("conversation_grace",),
    joins=CALL_RETRIES + _retry("a", "analysis"),
    due="a.retry_at",
    tries="COALESCE(a.tries, 0)",
    may=lambda group: not group.judged,
)
"""A row that has a follow-up and no judgement lacks the judgement alone."""
RECORDING = Need(
    condition=(
        f"({HAS_SUCCEEDED} AND {HAS_RECORDING_ID} AND NOT {RECORDED}"
        " AND (r.list_id IS NULL OR r.retry_at < r.since + INTERVAL %s SECOND))"
    ),
    parameters=("recording_grace",),
    joins=_retry("r", "recording"),
    due="r.retry_at",
    tries="COALESCE(r.tries, 0)",
    may=lambda group: group.unrecorded,
)


# --- the work of a task -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Rows between two ids (both included) that wait for a step; ``count`` of them do, after so many tries."""

    rows: Ranges
    count: int
    tries: int = 0


def work(
    cursor: Cursor,
    task_id: int,
    needs: Mapping[str, Need],
    *,
    now: datetime,
    sizes: Mapping[str, int],
    values: Mapping[str, float],
) -> tuple[dict[str, list[Work]], datetime | None]:
    """What steps can do now, and when the next row that was set aside is due: one statement.

    Args:
        cursor: any.
        task_id: the task.
        needs: what rows lack, by step.
        now: UTC, naive.
        sizes: rows a chunk, by step.
        values: of the needs' parameters, by name.

    Returns:
        The work by step, and the time (UTC, naive) or None.
    """
    works: dict[str, list[Work]] = {}
    if not needs:
        return works, None
    lacking, parameters = [], []
    for step, need in needs.items():
        lacking.append(
            f"SELECT %s AS step, l.id, {need.tries} AS tries, {need.due} AS due, NOT {need.due_now} AS later,"
            f" %s AS size{need.rows}"
        )
        parameters += [step, now, sizes[step], task_id, *(values[name] for name in need.parameters)]
    cursor.execute(
        "SELECT step, later, MIN(id), MAX(id), COUNT(*), SUM(tries), MIN(due) FROM ("
        " SELECT w.*, (ROW_NUMBER() OVER (PARTITION BY step, later ORDER BY id) - 1) DIV size AS chunk"
        f" FROM ({' UNION ALL '.join(lacking)}) w) n GROUP BY step, later, chunk ORDER BY step, later, chunk",
        parameters,
    )
    found = cursor.fetchall()
    for step, later, first, last, count, tries, _ in found:
        if not later:
            piece = Work(rows=[[int(first), int(last)]], count=int(count), tries=int(tries))
            works.setdefault(str(step), []).append(piece)
    return works, min((row[6] for row in found if row[1]), default=None)
