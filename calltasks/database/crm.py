"""What the CRM's columns must be able to hold (docs/operations.md has the same as a table).

What can be adapted to is adapted to where it is written; the rest is refused here, before anybody is dialled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from calltasks.database.columns import CHARACTERS, CODECS, TEXTS, TIMES, Column, Table
from calltasks.names import FINAL

NUMBERS = frozenset({"mediumint", "int", "bigint"})
NAMES = NUMBERS | CHARACTERS
FLAGS = NAMES | {"tinyint", "smallint", "enum"}
WORDS = CHARACTERS | TEXTS
HINTS = {
    NUMBERS: "INT or BIGINT",
    NAMES: "INT, BIGINT or VARCHAR",
    FLAGS: "an integer, VARCHAR or ENUM",
    WORDS: "VARCHAR or TEXT",
    WORDS | {"json"}: "MEDIUMTEXT, TEXT or JSON",
    CHARACTERS | {"enum"}: "VARCHAR or ENUM",
    TIMES: "DATETIME or TIMESTAMP",
}
CHINESE = "客户"
BYTES_A_CHARACTER = 3
"""Of Chinese in UTF-8, by which a TEXT's bytes are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What is needed of a column.

    Attributes:
        kinds: the types that it may have; empty: any.
        least: characters that it must hold.
        labels: what an ENUM must know.
        words: people's words are written into it: it must be able to hold Chinese.
        worker, create: who writes it: the worker, creating a task.
        empties: NULL, or the column's default, is written too.
    """

    kinds: frozenset[str] = frozenset()
    least: int = 0
    labels: tuple[str, ...] = ()
    words: bool = False
    worker: bool = False
    create: bool = False
    empties: bool = False


_ANY, _NUMBER, _NAME = Need(), Need(kinds=NUMBERS), Need(kinds=NAMES)
_TIME = Need(kinds=TIMES, worker=True)
NEEDS: dict[str, dict[str, Need]] = {
    "call_tasks": {
        "id": _NUMBER,
        "task_name": Need(kinds=WORDS, words=True, create=True),
        "organization_id": Need(kinds=NAMES, create=True),
        "task_type": Need(kinds=FLAGS, labels=("1", "2", "3", "4"), worker=True, create=True),
        "job_group_id": Need(kinds=WORDS, least=36, worker=True, create=True),
        "create_time": Need(kinds=TIMES, create=True),
    },
    "dcc_leads": {"leads_id": _NAME, "organization_id": _NAME, "leads_user_name": _ANY, "leads_user_phone": _ANY},
    "leads_task_list": {
        "id": _NUMBER,
        "task_id": Need(kinds=NAMES, create=True),
        "leads_id": Need(kinds=NAMES, create=True),
        "leads_name": Need(kinds=WORDS, words=True, create=True),
        "leads_phone": Need(kinds=WORDS, least=11, create=True),
        "call_time": Need(kinds=TIMES, create=True),
        "call_job_id": Need(kinds=WORDS, least=36, worker=True, create=True),
        "reference_id": Need(kinds=WORDS, least=20, create=True),
        "call_conversation": Need(kinds=WORDS | {"json"}, least=2000, words=True, worker=True),
        "call_status": Need(kinds=CHARACTERS | {"enum"}, least=9, labels=FINAL, worker=True, empties=True),
        "planed_time": _TIME,
        "call_task_id": Need(kinds=WORDS, least=36, worker=True),
        "calling_number": Need(kinds=WORDS, least=11, worker=True),
        "recording_url": Need(kinds=WORDS, least=64, worker=True),
        "leads_follow_id": Need(kinds=NAMES, least=10, worker=True),
        "is_interested": Need(kinds=FLAGS, labels=("0", "1", "2"), worker=True),
        "updated_time": _TIME,
    },
    "dcc_leads_follow": {
        "id": _NUMBER,
        "leads_id": Need(kinds=NAMES, worker=True),
        "follow_time": _TIME,
        "leads_remark": Need(kinds=WORDS, least=80, words=True, worker=True),
        "frist_follow_time": _TIME,
        "new_follow_time": _TIME,
        "next_follow_time": Need(kinds=TIMES, worker=True, empties=True),
    },
}
"""The CRM's tables as rule 15 names them; none of them is ever altered."""
_INSERTED_BY_WORKER = "dcc_leads_follow"
_ROW_BY_ROW = ({"id"}, {"call_job_id"}, {"reference_id"}, {"leads_follow_id"}, {"task_id", "leads_id"})
"""Columns of ``leads_task_list`` whose values differ from row to row."""


def of_worker(tables: Mapping[str, Table]) -> list[str]:
    """What a worker cannot live with, each with what to do."""
    found = [problem for name, needs in NEEDS.items() for problem in _columns(tables[name], needs, "worker")]
    follow_ups, rows = tables[_INSERTED_BY_WORKER], tables["leads_task_list"]
    found += _inserts(follow_ups)
    found += _unique(rows, "worker")
    lead, followed = rows.columns["leads_id"], follow_ups.columns["leads_id"]
    if followed.kind in NUMBERS and lead.kind in CHARACTERS:
        found.append(
            f"{followed.table}.leads_id is {_type(followed)}, {lead.table}.leads_id {_type(lead)}; make both the same"
        )
    return found


def of_creation(tables: Mapping[str, Table]) -> list[str]:
    """What no task can be created with, each with what to do."""
    named = ("call_tasks", "leads_task_list")
    found = [problem for name in named for problem in _columns(tables[name], NEEDS[name], "create")]
    found += [problem for name in named for problem in _inserts(tables[name])]
    return found + _unique(tables["leads_task_list"], "create")


def _columns(table: Table, needs: Mapping[str, Need], who: str) -> Iterator[str]:
    for name, need in needs.items():
        column = table.columns[name]
        what, writes = f"{table.name}.{name} is {_type(column)}", getattr(need, who)
        if need.kinds and column.kind not in need.kinds:
            yield f"{what}; it must be {HINTS[need.kinds]}"
        elif not writes:
            continue
        elif column.generated:
            yield f"{table.name}.{name} is generated, but is written; make it a plain column"
        elif need.labels and column.kind == "enum" and (lacking := _lacking(column, need.labels)):
            yield f"{what}; it must know {', '.join(lacking)}"
        elif (room := _room(column, words=need.words)) is not None and room < need.least:
            yield f"{what}, too short for what is written; it must hold {need.least} characters"
        elif need.words and column.charset and not _chinese(column):
            yield f"{table.name}.{name} is in {column.charset}, which has no Chinese; convert it to utf8mb4"
        elif need.empties and not (column.nullable or (column.default and name == "call_status")):
            yield f"{table.name}.{name} is NOT NULL, but may be empty; let it be NULL"


def _inserts(table: Table) -> list[str]:
    """Why a row could not be inserted that gives only the columns that we know."""
    given = {name for name, need in NEEDS[table.name].items() if need.create or table.name == _INSERTED_BY_WORKER}
    found = [] if table.columns["id"].automatic else [f"{table.name}.id is not AUTO_INCREMENT; make it so"]
    given.add("id")
    for name, column in table.columns.items():
        if name not in given and not column.default and not column.generated:
            found.append(f"{table.name}.{name} is NOT NULL without a default, and nobody gives it a value; give it one")
    if table.name == _INSERTED_BY_WORKER:
        found += [
            f"{table.name} has a unique key {key} on {', '.join(columns)}, whose values repeat; make it a plain one"
            for key, columns in table.unique.items()
            if set(columns) <= given - {"id"}
        ]
    return found


def _unique(table: Table, who: str) -> list[str]:
    """Unique keys of ``leads_task_list`` that rows would break that are like others in all that the key is on."""
    known, found = NEEDS[table.name], []
    for key, columns in table.unique.items():
        written = [name for name in columns if name in known and getattr(known[name], who)]
        distinct = any(some <= set(columns) for some in _ROW_BY_ROW) or not set(columns) <= known.keys()
        waiting = who == "create" and "call_job_id" in columns and not table.columns["call_job_id"].nullable
        if waiting:
            found.append(
                f"{table.name}.call_job_id is NOT NULL and in the unique key {key}, but rows wait without one;"
                " let it be NULL"
            )
        elif written and not distinct:
            found.append(
                f"{table.name} has a unique key {key} on {', '.join(columns)}, whose values repeat; make it a plain one"
            )
    return found


def _type(column: Column) -> str:
    return column.kind.upper() + (f"({column.characters})" if column.characters is not None else "")


def _lacking(column: Column, labels: tuple[str, ...]) -> list[str]:
    there = {label.casefold() for label in re.findall(r"'((?:[^']|'')*)'", column.declared)}
    return [label for label in labels if label.casefold() not in there]


def _room(column: Column, *, words: bool) -> int | None:
    if column.kind in TEXTS and column.octets is not None:
        return column.octets // (BYTES_A_CHARACTER if words else 1)
    return column.characters


def _chinese(column: Column) -> bool:
    try:
        CHINESE.encode(CODECS.get(column.charset, "ascii"))
    except UnicodeEncodeError:
        return False
    return True
