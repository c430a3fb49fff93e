"""Makes what is missing of the tables, and says in one line what a program cannot live with."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

from pymysql.cursors import Cursor
from pymysql.err import MySQLError

from calltasks.database import crm, rights
from calltasks.database.columns import Table, read
from calltasks.database.crm import NEEDS
from calltasks.database.rights import Rights
from calltasks.database.session import is_steady
from calltasks.errors import SchemaError

log = logging.getLogger(__name__)

SCHEMA = Path(__file__).resolve().parent / "sql"
VERSIONS = ("own.sql",)
"""What makes each version of our tables from the one before, in ``sql/``. A file that has shipped is never changed:
a change is a file more, which adds. Its statements must do no harm when they are run again, for a run may end between
two."""
DONE_BEFORE = frozenset({1050, 1060, 1061, 1091})
"""Errors of a statement that was run before: the table, column or index is there, or gone."""
OLDER = "our own tables are older than this program; bring them up to date with: starter.py init-db"
LOCK_SECONDS = 60
INDEXES = {
    "idx_task": ("task_id", "id"),
    "idx_task_reference": ("task_id", "reference_id"),
    "idx_task_phone": ("task_id", "leads_phone"),
    "idx_job": ("call_job_id",),
    "idx_follow": ("leads_follow_id",),
}
"""Of ``leads_task_list``: without them everything works, slower."""
_NO_TABLE = 1146
_LONG_INDEX = 1071
_TEXT_INDEX = frozenset({_LONG_INDEX, 1170, 3152})
"""Errors of an index on a column that is too long, or a TEXT, or JSON."""


# --- init-db ------------------------------------------------------------------------------------------------------


def statements(name: str) -> list[str]:
    """The statements of a file in ``sql/``."""
    text = re.sub(r"--.*", "", (SCHEMA / name).read_text("utf-8"))
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def own_tables() -> dict[str, dict[str, str]]:
    """Our own tables: each column, and each key as ``KEY name``, with its definition, from the files that make them."""
    tables: dict[str, dict[str, str]] = {}
    for statement in (statement for name in VERSIONS for statement in statements(name)):
        made = re.match(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*)\)", statement, re.DOTALL)
        if made is None:
            continue
        for line in (line.strip().rstrip(",") for line in made[2].splitlines() if line.strip()):
            name = re.match(r"(?:UNIQUE )?KEY \w+|\w+", line)
            assert name is not None
            tables.setdefault(made[1], {})[name[0]] = line
    return tables


def own_columns() -> dict[str, list[str]]:
    """Our own tables and their columns."""
    return {
        table: [name for name in parts if not name.startswith(("PRIMARY", "KEY", "UNIQUE"))]
        for table, parts in own_tables().items()
    }


def apply(cursor: Cursor) -> list[str]:
    """Create missing tables and indexes, and bring our own tables up to date; no column of the CRM is touched.

    Returns:
        What was created.

    Raises:
        SchemaError: our tables are of a newer version, or somebody else is at it for more than a minute.
    """
    with _alone(cursor):
        existing = read(cursor)
        there = _version(cursor, existing)
        _not_newer(there)
        for statement in statements("crm.sql"):
            cursor.execute(statement)
        if not own_columns().keys() <= existing.keys():
            there = 0
        for name in VERSIONS[there:]:
            for statement in statements(name):
                _execute(cursor, statement, DONE_BEFORE)
        _carry_over(cursor, existing)
        completed = [*_complete(cursor, existing)]
        for version in range(there + 1, len(VERSIONS) + 1):
            cursor.execute(
                "INSERT IGNORE INTO call_schema (version, applied_at) VALUES (%s, UTC_TIMESTAMP(6))", (version,)
            )
        created = [f"table {name}" for name in (*NEEDS, *own_tables()) if name not in existing]
        return [*created, *completed, *_create_indexes(cursor)]


def _carry_over(cursor: Cursor, tables: Mapping[str, Table]) -> None:
    """Bring what our tables held before they had versions into the form of the first one."""
    if "call_follow_ups" not in tables or "stored_hash" in tables["call_follow_ups"].columns:
        return
    try:
        for statement in statements("own-at-first.sql"):
            _execute(cursor, statement, DONE_BEFORE | {_NO_TABLE})
    except MySQLError as error:
        if error.args[0] not in rights.DENIED:
            raise
        raise SchemaError(
            "our own tables are from before they had versions; run this init-db as a user that may also read the CRM's"
            " tables, and read and change ours"
        ) from None


def _complete(cursor: Cursor, tables: Mapping[str, Table]) -> Iterator[str]:
    """Add what our own tables lack that were there before: columns and keys."""
    for table, parts in own_tables().items():
        if table not in tables:
            continue
        for name, definition in parts.items():
            is_key = name.startswith("KEY ")
            lacks = is_key or (name in own_columns()[table] and name not in tables[table].columns)
            if lacks and _execute(cursor, f"ALTER TABLE {table} ADD {definition}", DONE_BEFORE):
                yield f"index {name.removeprefix('KEY ')} on {table}" if is_key else f"column {table}.{name}"


@contextmanager
def _alone(cursor: Cursor) -> Iterator[None]:
    """Let no other ``init-db`` of this database run meanwhile."""
    cursor.execute("SELECT GET_LOCK(LEFT(CONCAT('call_schema ', DATABASE()), 64), %s)", (LOCK_SECONDS,))
    row = cursor.fetchone()
    if row is None or row[0] != 1:
        raise SchemaError("another init-db is at work; try again when it is done")
    try:
        yield
    finally:
        cursor.execute("SELECT RELEASE_LOCK(LEFT(CONCAT('call_schema ', DATABASE()), 64))")


def _create_indexes(cursor: Cursor) -> list[str]:
    cursor.execute(
        "SELECT index_name, column_name FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = 'leads_task_list' ORDER BY index_name, seq_in_index"
    )
    present: dict[str, tuple[str, ...]] = {}
    for index, column in cursor.fetchall():
        present[index] = (*present.get(index, ()), str(column).lower())
    created = []
    for name, columns in INDEXES.items():
        if not any(index[: len(columns)] == columns for index in present.values()):
            free = name if name not in present else f"call_{name}"
            if _execute(cursor, f"CREATE INDEX {free} ON leads_task_list ({', '.join(columns)})", _TEXT_INDEX):
                created.append(f"index {free} on leads_task_list")
            else:
                log.warning(
                    "no index on leads_task_list (%s): a column is too long for one; everything works, slower",
                    ", ".join(columns),
                )
    return created


def _execute(cursor: Cursor, statement: str, harmless: frozenset[int]) -> bool:
    try:
        cursor.execute(statement)
    except MySQLError as error:
        if error.args[0] not in harmless:
            raise
        return False
    return True


def _version(cursor: Cursor, tables: Mapping[str, Table]) -> int:
    """Of our tables as they are; 0 if there are none."""
    if "call_schema" not in tables:
        return 0
    cursor.execute("SELECT COALESCE(MAX(version), 0) FROM call_schema")
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _not_newer(version: int) -> None:
    if version > len(VERSIONS):
        raise SchemaError(
            f"our tables are of version {version}, and this program knows {len(VERSIONS)}; run the newer program"
        )


# --- at the start -------------------------------------------------------------------------------------------------


def check(cursor: Cursor, zone: ZoneInfo) -> dict[str, Table]:
    """See that a worker can do all its work in this database; ``zone``: of the wall-clock columns.

    Returns:
        The database's tables.

    Raises:
        SchemaError: what it cannot live with, and what to do.
    """
    own = own_columns()
    tables = _there(cursor, (*NEEDS, *own))
    _may(cursor, {"call_schema": rights.WORKER["call_schema"]}, own)
    _not_newer(version := _version(cursor, tables))
    if version < len(VERSIONS):
        raise SchemaError(OLDER)
    _not_older(tables, own)
    problems = crm.of_worker(tables) or _zone(cursor, tables, zone)
    if problems:
        raise SchemaError("; ".join(problems))
    _may(cursor, rights.WORKER, own | {name: list(columns) for name, columns in NEEDS.items()})
    return tables


def check_backend(cursor: Cursor) -> dict[str, Table]:
    """See that a backend, or the HTTP interface, can do all that it is asked for in this database.

    Returns:
        The database's tables.

    Raises:
        SchemaError: what it cannot live with, and what to do.
    """
    own = {name: columns for name, columns in own_columns().items() if name in rights.BACKEND}
    tables = _there(cursor, tuple(rights.BACKEND))
    _not_older(tables, own)
    _may(cursor, rights.BACKEND, own | {name: list(columns) for name, columns in NEEDS.items()}, "a backend")
    return tables


def _not_older(tables: Mapping[str, Table], own: Mapping[str, Sequence[str]]) -> None:
    if not all(set(columns) <= tables[name].columns.keys() for name, columns in own.items()):
        raise SchemaError(OLDER)


def _may(
    cursor: Cursor, needed: Mapping[str, Rights], columns: Mapping[str, Sequence[str]], who: str = "a worker"
) -> None:
    if lacking := rights.missing(cursor, needed, columns):
        raise SchemaError(
            f"the user may not write as {who} does, it lacks {'; '.join(lacking)}; docs/security.md has the GRANTs"
        )


def creating(cursor: Cursor) -> dict[str, Table]:
    """The tables, seen to be such that tasks can be created in them.

    Raises:
        SchemaError: what stands against it, and what to do.
    """
    tables = _there(cursor, ("call_tasks", "dcc_leads", "leads_task_list"))
    if problems := crm.of_creation(tables):
        raise SchemaError("; ".join(problems))
    return tables


def _there(cursor: Cursor, names: Sequence[str]) -> dict[str, Table]:
    """The database's tables, of which these are there, with their columns, and in InnoDB."""
    tables = read(cursor)
    if missing := [name for name in names if name not in tables]:
        raise SchemaError(
            f"no table {', '.join(missing)}, or no right to see it; create what is missing with: starter.py init-db"
        )
    columns = [f"{name}.{c}" for name in names for c in NEEDS.get(name, ()) if c not in tables[name].columns]
    if columns:
        raise SchemaError(
            f"no column {', '.join(columns)}; these tables are not those of the CRM (docs/rules.md, 15), or there is"
            " no right to see it"
        )
    if views := [name for name in names if "VIEW" in tables[name].kind]:
        raise SchemaError(f"{', '.join(views)} must be tables, not views: rows are locked in them")
    if wrong := [name for name in names if tables[name].engine != "innodb"]:
        raise SchemaError(f"{', '.join(wrong)} must be InnoDB tables: follow-ups are written in transactions")
    return tables


def _zone(cursor: Cursor, tables: Mapping[str, Table], zone: ZoneInfo) -> list[str]:
    """TIMESTAMP columns need a server that knows the zone's summer time."""
    cursor.execute("SELECT @@SESSION.time_zone")
    row = cursor.fetchone()
    if is_steady(zone) or (row is not None and row[0] == zone.key):
        return []
    moments = (f"{name}.{column}" for name, known in NEEDS.items() for column in known)
    stamps = [
        name for name in moments if tables[name.partition(".")[0]].columns[name.partition(".")[2]].kind == "timestamp"
    ]
    return [
        f"{name} is TIMESTAMP, and the server does not know TIME_ZONE {zone.key} with its summer time; load its time"
        " zone tables (mysql_tzinfo_to_sql), or make it DATETIME"
        for name in stamps[:1]
    ]
