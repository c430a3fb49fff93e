"""Creates what is missing of the tables, and says what is wrong with what is there."""

from __future__ import annotations

import re
from pathlib import Path

from pymysql.cursors import Cursor
from pymysql.err import OperationalError, ProgrammingError

SCHEMA = Path(__file__).resolve().parent.parent.parent / "schema"
COLUMNS = {
    "call_tasks": ("id", "task_name", "organization_id", "task_type", "job_group_id", "create_time"),
    "dcc_leads": ("leads_id", "organization_id", "leads_user_name", "leads_user_phone"),
    "leads_task_list": (
        *("id", "task_id", "leads_id", "leads_name", "leads_phone", "call_time", "call_job_id", "reference_id"),
        *("call_conversation", "call_status", "planed_time", "call_task_id", "calling_number", "recording_url"),
        *("leads_follow_id", "is_interested", "updated_time"),
    ),
    "dcc_leads_follow": (
        *("id", "leads_id", "follow_time", "leads_remark", "frist_follow_time", "new_follow_time"),
        "next_follow_time",
    ),
}
"""The CRM's tables as SPEC names them; none of them is ever altered."""
INDEXES = {
    "idx_task": ("task_id", "id"),
    "idx_task_reference": ("task_id", "reference_id"),
    "idx_task_phone": ("task_id", "leads_phone"),
    "idx_job": ("call_job_id",),
    "idx_follow": ("leads_follow_id",),
}
"""Of ``leads_task_list``: without them everything works, slower."""
_INSERT = "INSERT INTO {0} SELECT * FROM {0} WHERE FALSE"
RIGHTS = {
    "call_tasks": ("UPDATE {0} SET task_type = task_type WHERE FALSE",),
    "leads_task_list": ("UPDATE {0} SET call_status = call_status WHERE FALSE",),
    "dcc_leads_follow": (
        "INSERT INTO {0} (leads_id) SELECT leads_id FROM {0} WHERE FALSE",
        "UPDATE {0} SET leads_remark = leads_remark WHERE FALSE",
    ),
    "call_follow_ups": (_INSERT, "UPDATE {0} SET stored_hash = stored_hash, call_job_id = call_job_id WHERE FALSE"),
    "call_analyses": (_INSERT, "UPDATE {0} SET outcome = outcome, settled_at = settled_at WHERE FALSE"),
    "call_task_options": (_INSERT, "UPDATE {0} SET options = options WHERE FALSE"),
    "call_retries": (_INSERT, "UPDATE {0} SET tries = tries WHERE FALSE"),
    "call_dispatches": (
        *(_INSERT, "UPDATE {0} SET accepted_at = accepted_at WHERE FALSE"),
        "DELETE FROM {0} WHERE FALSE",
    ),
    "call_suppressions": (_INSERT, "UPDATE {0} SET reason = reason WHERE FALSE"),
    "call_rate_limits": (_INSERT, "UPDATE {0} SET next_at = next_at WHERE FALSE"),
}
"""Statements that do nothing but need the rights that the worker needs."""


class SchemaError(Exception):
    """The database is not as the program needs it; ``str()`` is one line that says what to do."""


def statements(name: str) -> list[str]:
    """The statements of a file in ``schema/``."""
    text = re.sub(r"--.*", "", (SCHEMA / name).read_text("utf-8"))
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def own_tables() -> dict[str, list[str]]:
    """Our own tables and their columns, read from ``schema/own.sql``."""
    tables = {}
    for statement in statements("own.sql"):
        name, body = re.match(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*)\)", statement, re.DOTALL).groups()  # type: ignore[union-attr]
        lines = (line.split() for line in body.splitlines())
        tables[name] = [words[0] for words in lines if words and words[0] not in ("PRIMARY", "KEY")]
    return tables


def apply(cursor: Cursor) -> list[str]:
    """Create missing tables and indexes; no existing column is touched. Returns what was created."""
    existing = _columns(cursor)
    for statement in (*statements("crm.sql"), *statements("own.sql")):
        cursor.execute(statement)
    created = [f"table {name}" for name in (*COLUMNS, *own_tables()) if name not in existing]
    cursor.execute(
        "SELECT index_name, column_name FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = 'leads_task_list' ORDER BY index_name, seq_in_index"
    )
    present: dict[str, tuple[str, ...]] = {}
    for index, column in cursor.fetchall():
        present[index] = (*present.get(index, ()), column)
    for name, columns in INDEXES.items():
        if not any(index[: len(columns)] == columns for index in present.values()):
            free = name if name not in present else f"call_{name}"
            cursor.execute(f"CREATE INDEX {free} ON leads_task_list ({', '.join(columns)})")
            created.append(f"index {free} on leads_task_list")
    return created


def check(cursor: Cursor) -> None:
    """See that tables, columns, engine and rights are there.

    Raises:
        SchemaError: what is missing.
    """
    existing = _columns(cursor)
    wanted = {**COLUMNS, **{name: tuple(columns) for name, columns in own_tables().items()}}
    tables = [name for name in wanted if name not in existing]
    if tables:
        raise SchemaError(f"database: no table {', '.join(tables)}; create what is missing with: starter.py init-db")
    columns = [
        f"{name}.{c}" for name, wanted_columns in wanted.items() for c in wanted_columns if c not in existing[name]
    ]
    if columns:
        raise SchemaError(
            f"database: no column {', '.join(columns)}; these tables are not those of the CRM (SPEC, Tables)"
        )
    cursor.execute("SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE()")
    engines = {str(name).lower(): str(engine) for name, engine in cursor.fetchall()}
    wrong = [name for name in wanted if engines.get(name, "").lower() != "innodb"]
    if wrong:
        raise SchemaError(f"database: {', '.join(wrong)} must be InnoDB tables: follow-ups are written in transactions")
    denied = [
        name for name, needed in RIGHTS.items() if not all(_may(cursor, statement.format(name)) for statement in needed)
    ]
    if denied:
        raise SchemaError(
            f"database: the user may not write {', '.join(denied)}; its rights are listed in docs/operations.md"
        )


def _may(cursor: Cursor, statement: str) -> bool:
    try:
        cursor.execute(statement)
    except (OperationalError, ProgrammingError) as error:
        if error.args[0] in (1142, 1143, 1227):
            return False
        raise
    return True


def _columns(cursor: Cursor) -> dict[str, set[str]]:
    cursor.execute("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()")
    tables: dict[str, set[str]] = {}
    for table, column in cursor.fetchall():
        tables.setdefault(str(table), set()).add(str(column))
    return tables
