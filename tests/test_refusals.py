"""One row that the database refuses never stops the others: the portion is halved until the row stands alone."""

from collections.abc import Iterator, Sequence

import pytest
from pymysql.cursors import Cursor

from calltasks.database.connection import Database, flat
from calltasks.database.refusals import Refused, write_each
from calltasks.errors import PermanentError
from calltasks.settings import DatabaseSettings, load


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("DATABASE_URL", database_url)

    database = Database(load(DatabaseSettings))
    yield database
    database.close()


async def test_what_is_refused_stands_alone_and_the_rest_is_written(database: Database) -> None:
    await database.run(_execute, "CREATE TABLE narrow (id TINYINT, name VARCHAR(3)) ENGINE = InnoDB")
    writes = 0

    async def write(rows: Sequence[tuple[int, str]]) -> None:
        nonlocal writes
        writes += 1
        await database.transaction(_insert, rows)

    rows = [(id_, "abc") for id_ in range(100)]
    rows[17], rows[63] = (17, "abcd"), (1000, "abc")
    assert await write_each(write, rows) == [
        Refused(item=(17, "abcd"), code="1406"),
        Refused(item=(1000, "abc"), code="1264"),
    ]
    assert await database.run(_count) == 98
    assert writes < 30
    assert await write_each(write, []) == []


async def test_a_statement_that_no_row_could_mend_is_not_halved(database: Database) -> None:
    writes = 0

    async def write(rows: Sequence[tuple[int, str]]) -> None:
        nonlocal writes
        writes += 1
        await database.transaction(_insert, rows)

    with pytest.raises(PermanentError, match="1146"):
        await write_each(write, [(id_, "abc") for id_ in range(100)])
    assert writes == 1


def _execute(cursor: Cursor, statement: str) -> None:
    cursor.execute(statement)


def _insert(cursor: Cursor, rows: Sequence[tuple[int, str]]) -> None:
    cursor.execute("INSERT INTO narrow VALUES " + ", ".join(["(%s, %s)"] * len(rows)), flat(rows))


def _count(cursor: Cursor) -> int:
    cursor.execute("SELECT COUNT(*) FROM narrow")
    row = cursor.fetchone()
    return int(row[0]) if row else 0
