"""What a row lacks, said once (SPEC 3 to 6): the review hands out by these conditions, and the activities take by them,
so they cannot disagree about a row.

All conditions are on ``leads_task_list l``. Our retries of a row stand beside it: ``c`` of a transcript that is not
there yet, ``o`` of an outcome that the database has not taken, ``a`` of an analysis, ``r`` of a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from calltasks import names

# --- statuses ---------------------------------------------------------------------------------------------------

_BLANKS = " \t\r\n\u00a0\u3000"
_BY_FOLDED = {status.lower(): status for status in names.FINAL}


def final_status(status: str) -> str:
    """The final status that a text stands for, as the platform spells it; ``""`` if it is none."""
    return _BY_FOLDED.get(status.translate(dict.fromkeys(map(ord, _BLANKS))).lower(), "")


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
        f"(CASE COALESCE(CAST({column} AS BINARY), '') WHEN '' THEN FALSE{spelled}"
        f" ELSE {folded_sql(column)} IN ({folded}) END)"
    )


# --- what holds of a row ----------------------------------------------------------------------------------------

CALL_TIMES = ("call_time", "planed_time", "updated_time")
"""Of ``leads_task_list``: an UPDATE that does not write one says that it is unchanged, for ``ON UPDATE`` would."""
UNJUDGED = "COALESCE(l.is_interested, '') = ''"
"""Whatever the column's type is: compared as a text, 0 is not empty."""
CALLED = "COALESCE(l.call_job_id, '') <> ''"
HAS_SUCCEEDED = is_status(names.SUCCEEDED)
SILENT = "COALESCE(l.call_conversation, '') = ''"
UNLINKED = "COALESCE(l.leads_follow_id, '') IN ('', '0')"
RECORDED = "COALESCE(l.recording_url, '') <> ''"
HAS_RECORDING_ID = "COALESCE(l.call_task_id, '') <> ''"


def _retry(alias: str, step: str) -> str:
    return f" LEFT JOIN call_retries {alias} ON {alias}.list_id = l.id AND {alias}.step = '{step}'"


CALL_RETRIES = _retry("c", "conversation") + _retry("o", "outcome") + " AND o.error_code <> ''"
TRANSCRIPT_EXPECTED = (
    f"({is_final()} AND {SILENT} AND {UNLINKED} AND (o.list_id IS NOT NULL"
    f" OR IF(c.list_id IS NULL, {HAS_SUCCEEDED}, c.retry_at < c.since + INTERVAL %s SECOND)))"
)
"""What is not there yet is asked for while its next try lies within its grace (seconds). The grace of whoever has
spoken begins in the transaction that saves the outcome; of a row that others wrote the status alone tells it. A
transcript that the database does not take is there all the same: its call is not one without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What rows lack of one step.

    Attributes:
        joins: the retries that it depends on.
        condition: which of the task's called rows lack it; its parameters are the caller's.
        due: when the next try is due, NULL for at once.
        tries: how many there were.
    """

    step: str
    joins: str
    condition: str
    due: str
    tries: str

    @property
    def rows(self) -> str:
        """``FROM … WHERE …``; parameters: the task, then the condition's."""
        return f" FROM leads_task_list l{self.joins} WHERE l.task_id = %s AND {CALLED} AND {self.condition}"

    @property
    def due_now(self) -> str:
        """Of these rows those whose try is due; parameter: now, UTC."""
        return f"COALESCE({self.due} <= %s, TRUE)"


CONVERSATION = Need(
    step="conversations",
    joins=CALL_RETRIES,
    condition=f"((NOT {is_final()} AND (%s OR o.list_id IS NOT NULL)) OR {TRANSCRIPT_EXPECTED})",
    due=f"COALESCE(o.retry_at, IF({is_final()}, c.retry_at, NULL))",
    tries="COALESCE(c.tries, 0) + COALESCE(o.tries, 0)",
)
"""Parameters: whether rows without outcome count that have not been set aside; the transcript's grace."""
FOLLOW_UP = Need(
    step="follow_ups",
    joins=CALL_RETRIES + _retry("a", "analysis"),
    condition=f"({is_final()} AND ({UNLINKED} OR {UNJUDGED}) AND NOT {TRANSCRIPT_EXPECTED})",
    due="a.retry_at",
    tries="COALESCE(a.tries, 0)",
)
"""Parameter: the transcript's grace. A row that has a follow-up and no judgement lacks the judgement alone."""
RECORDING = Need(
    step="recordings",
    joins=_retry("r", "recording"),
    condition=(
        f"({HAS_SUCCEEDED} AND {HAS_RECORDING_ID} AND NOT {RECORDED}"
        " AND (r.list_id IS NULL OR r.retry_at < r.since + INTERVAL %s SECOND))"
    ),
    due="r.retry_at",
    tries="COALESCE(r.tries, 0)",
)
"""Parameter: the recording's grace."""


# --- the work of a task -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows between two ids (both included) that a step has something to do with; ``tries`` that were made of them."""

    step: str
    first: int
    last: int
    count: int
    tries: int


_NEEDS = (CONVERSATION, FOLLOW_UP, RECORDING)
_LACKING = " UNION ALL ".join(
    f"SELECT '{need.step}' AS step, l.id, {need.tries} AS tries, {need.due} AS due,"
    f" NOT {need.due_now} AS later, %s AS size{need.rows}"
    for need in _NEEDS
)
_WORK = (
    "SELECT step, later, MIN(id), MAX(id), COUNT(*), SUM(tries), MIN(due) FROM ("
    " SELECT w.*, (ROW_NUMBER() OVER (PARTITION BY step, later ORDER BY id) - 1) DIV size AS chunk"
    f" FROM ({_LACKING}) w) n GROUP BY step, later, chunk ORDER BY step, later, chunk"
)


def work(
    cursor: Cursor,
    task_id: int,
    *,
    now: datetime,
    unfinished: bool,
    sizes: tuple[int, int, int],
    conversation_grace: float,
    recording_grace: float,
) -> tuple[list[Chunk], datetime | None]:
    """What the steps 4 to 6 can do now, as ranges of rows, and when the next row that was set aside is due.

    Args:
        cursor: any.
        task_id: the task.
        now: UTC, naive.
        unfinished: whether calls without an outcome are asked for too, not only what is due for another try.
        sizes: rows a chunk of conversations, follow-ups and recordings.
        conversation_grace: seconds that a transcript may come after its call's outcome.
        recording_grace: seconds that a recording may.

    Returns:
        The ranges, and the time (UTC, naive) or None.
    """
    parameters: list[Any] = [now, sizes[0], task_id, unfinished, conversation_grace]
    parameters += [now, sizes[1], task_id, conversation_grace, now, sizes[2], task_id, recording_grace]
    cursor.execute(_WORK, parameters)
    found = cursor.fetchall()
    chunks = [
        Chunk(step=str(step), first=int(first), last=int(last), count=int(count), tries=int(tries))
        for step, later, first, last, count, tries, _ in found
        if not later
    ]
    return chunks, min((row[6] for row in found if row[1]), default=None)
