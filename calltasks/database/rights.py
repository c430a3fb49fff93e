"""Which rights in the database who needs: the one list. docs/security.md shows it as GRANT statements; a worker and
the HTTP interface try their own at the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pymysql.cursors import Cursor
from pymysql.err import OperationalError, ProgrammingError

DENIED = frozenset({1142, 1143, 1227})
_ROWS = ("call_time", "call_conversation", "call_status", "planed_time", "call_task_id", "calling_number")
"""``call_time``, and other times that are not changed: a statement names them, so that ``ON UPDATE`` does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """On one table, beside SELECT. ``update``: columns; ``("*",)``: the whole row."""

    insert: bool = False
    update: tuple[str, ...] = ()
    delete: bool = False


_OWN = Rights(insert=True, update=("*",))
WORKER: dict[str, Rights] = {
    "call_tasks": Rights(update=("task_type", "job_group_id", "create_time")),
    "leads_task_list": Rights(
        update=("call_job_id", *_ROWS, "recording_url", "leads_follow_id", "is_interested", "updated_time")
    ),
    "dcc_leads_follow": Rights(
        insert=True,
        update=("leads_remark", "follow_time", "frist_follow_time", "new_follow_time", "next_follow_time"),
    ),
    "call_schema": Rights(),
    "call_dispatches": Rights(insert=True, update=("*",), delete=True),
    "call_retries": _OWN,
    "call_suppressions": _OWN,
    "call_opt_outs": _OWN,
    "call_contacts": _OWN,
    "call_withdrawals": _OWN,
    "call_follow_ups": _OWN,
    "call_analyses": _OWN,
    "call_standings": _OWN,
    "call_task_options": _OWN,
    "call_rate_limits": _OWN,
    "call_events": Rights(insert=True, update=("*",), delete=True),
    "call_event_positions": Rights(update=("*",)),
    "call_event_subscriptions": Rights(update=("*",)),
}
BACKEND: dict[str, Rights] = {
    "call_tasks": Rights(insert=True),
    "dcc_leads": Rights(),
    "leads_task_list": Rights(insert=True, update=(*_ROWS, "recording_url", "updated_time", "is_interested")),
    "call_retries": _OWN,
    "call_rate_limits": _OWN,
    "call_analyses": Rights(),
    "call_follow_ups": _OWN,
    "call_opt_outs": _OWN,
    "call_contacts": Rights(),
    "call_dispatches": Rights(),
    "call_suppressions": Rights(),
    "call_task_options": Rights(),
    "call_standings": _OWN,
    "call_corrections": _OWN,
    "dcc_leads_follow": Rights(
        update=("leads_remark", "follow_time", "frist_follow_time", "new_follow_time", "next_follow_time")
    ),
    "call_events": _OWN,
    "call_event_positions": _OWN,
    "call_event_subscriptions": Rights(insert=True, update=("*",), delete=True),
}


def missing(cursor: Cursor, rights: Mapping[str, Rights], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The rights that the user lacks, as GRANT names them, found by statements that do nothing but need them.

    Args:
        cursor: the user's.
        rights: by table.
        columns: of every table.
    """
    return [lack for table, one in rights.items() for lack in _missing(cursor, table, one, columns[table])]


def _missing(cursor: Cursor, table: str, rights: Rights, columns: Sequence[str]) -> Iterator[str]:
    given = ", ".join(column for column in columns if column != "id")
    # Every other statement reads as well.
    inserted = rights.insert and _may(cursor, f"INSERT INTO {table} ({given}) SELECT {given} FROM {table} WHERE FALSE")
    if not inserted and not _may(cursor, f"SELECT {', '.join(columns)} FROM {table} WHERE FALSE"):
        yield f"SELECT on {table}"
        return
    if rights.insert and not inserted:
        yield f"INSERT on {table}"
    wanted = columns if rights.update == ("*",) else rights.update
    if wanted and not _may_update(cursor, table, wanted):
        lacking = [column for column in wanted if not _may_update(cursor, table, [column])]
        yield f"UPDATE on {table}" if lacking == list(columns) else f"UPDATE ({', '.join(lacking)}) on {table}"
    if rights.delete and not _may(cursor, f"DELETE FROM {table} WHERE FALSE"):
        yield f"DELETE on {table}"


def _may_update(cursor: Cursor, table: str, columns: Sequence[str]) -> bool:
    return _may(cursor, f"UPDATE {table} SET {', '.join(f'{c} = {c}' for c in columns)} WHERE FALSE")


def _may(cursor: Cursor, statement: str) -> bool:
    try:
        cursor.execute(statement)
    except (OperationalError, ProgrammingError) as error:
        if error.args[0] in DENIED:
            return False
        raise
    return True
