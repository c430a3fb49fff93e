"""What the CRM's columns are, and how a text is made to fit one: characters, length, character set.

A text that a column cannot hold whole would fail its whole batch, or be stored as question marks. So what is said
(:meth:`Column.fit`) is cut with a mark, what names something (:meth:`Column.whole`) is held whole or not at all, and a
character that the column's character set lacks becomes ``□``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pymysql.cursors import Cursor

CODECS = {
    **{"utf8mb4": "utf-8", "utf8mb3": "utf-8", "utf8": "utf-8", "utf16": "utf-16-be", "utf16le": "utf-16-le"},
    **{"utf32": "utf-32-be", "ucs2": "utf-16-be", "gbk": "gbk", "gb2312": "gb2312", "gb18030": "gb18030"},
    **{"ascii": "ascii", "latin1": "cp1252"},
}
"""Python's names of MySQL's character sets; what Python's hold, the server's hold. Of others only ASCII is used."""
BASIC_PLANE = frozenset({"utf8mb3", "utf8", "ucs2"})
"""Character sets without emoji and rare characters."""
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
MISSING = "□"
"""Stands for a character that the column's character set lacks."""
CUT = "…"
"""The end of a text that was cut."""
CHARACTERS = frozenset({"char", "varchar"})
TEXTS = frozenset({"tinytext", "text", "mediumtext", "longtext"})
TIMES = frozenset({"datetime", "timestamp"})
LAST_TIMESTAMP = datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC)
"""Of a TIMESTAMP; its first is in 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes:
        kind: its type in small letters, without length: ``varchar``.
        declared: its type as the server shows it: ``varchar(255)``.
        characters: it holds so many; None: bytes count, or nothing does.
        octets: it holds so many bytes in its character set; None: no limit of its own.
        charset: ``""`` for what holds no text.
        default: whether a row can be inserted without it.
        start: what it then holds, as text; ``""`` for NULL.
        generated: the server computes it.
    """

    table: str
    name: str
    kind: str
    declared: str
    characters: int | None = None
    octets: int | None = None
    charset: str = ""
    nullable: bool = True
    default: bool = True
    start: str = ""
    automatic: bool = False
    generated: bool = False

    def fit(self, text: str) -> str:
        """What is said, as the column can hold it: cut with a mark where it is too long."""
        clean = self.clean(text)
        if self.holds(clean):
            return clean
        mark = CUT if self.clean(CUT) == CUT else ""
        low, high = 0, len(clean)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.holds(clean[:middle] + mark) else (low, middle - 1)
        return clean[:low] + mark if low else ""

    def whole(self, text: str) -> str:
        """What names something, if the column can hold every character of it, else ``""``."""
        return text if self.clean(text) == text and self.holds(text) else ""

    def clean(self, text: str, *, json: bool = False) -> str:
        """``text`` without NUL and lone surrogates, and without what the character set lacks; ``json``: escaped."""
        clean = text.encode("utf-8", "replace").decode().replace("\0", "")
        if not self.charset or clean.isascii():
            return clean
        instead = _escape if json else self._missing
        if self.charset in BASIC_PLANE:
            return _ASTRAL.sub(lambda found: instead(found[0]), clean)
        codec = CODECS.get(self.charset, "ascii")
        try:
            clean.encode(codec)
        except UnicodeEncodeError:
            clean = "".join(one if _encodable(one, codec) else instead(one) for one in clean)
        return clean

    def holds(self, clean: str) -> bool:
        """Whether a text of characters that the column has is short enough."""
        if self.characters is not None:
            return len(clean) <= self.characters
        return self.octets is None or len(clean.encode(CODECS.get(self.charset, "utf-8"))) <= self.octets

    def _missing(self, _character: str) -> str:
        return MISSING if _encodable(MISSING, CODECS.get(self.charset, "ascii")) else "?"

    def holds_moment(self, moment: datetime) -> bool:
        """Whether the column's type has this moment (aware)."""
        return self.kind != "timestamp" or datetime(1970, 1, 2, tzinfo=UTC) <= moment <= LAST_TIMESTAMP


def _encodable(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with its columns by name (small letters), and the columns of each of its unique keys."""

    name: str
    kind: str
    engine: str
    columns: dict[str, Column] = field(default_factory=dict)
    unique: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read(cursor: Cursor) -> dict[str, Table]:
    """The database's tables, as far as the user may see them."""
    # The names of these columns are in capitals on MySQL and in small letters on MariaDB.
    cursor.execute(
        "SELECT table_name, table_type, engine FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    tables = {
        str(name): Table(name=str(name), kind=str(kind).upper(), engine=str(engine or "").lower())
        for name, kind, engine in cursor.fetchall()
    }
    for column in _columns(cursor):
        if column.table in tables:
            tables[column.table].columns[column.name] = column
    cursor.execute(
        "SELECT table_name, index_name, column_name FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND non_unique = 0 ORDER BY table_name, index_name, seq_in_index"
    )
    for table, index, column in cursor.fetchall():
        # An expression in an index has no column; what it is of cannot be told.
        keys = tables[str(table)].unique if str(table) in tables else {}
        keys[str(index)] = (*keys.get(str(index), ()), str(column or "(expression)").lower())
    return tables


def _columns(cursor: Cursor) -> Iterator[Column]:
    cursor.execute(
        "SELECT table_name, column_name, data_type, column_type, character_maximum_length, character_octet_length,"
        " character_set_name, is_nullable, column_default, extra FROM information_schema.columns"
        " WHERE table_schema = DATABASE()"
    )
    for table, name, kind, declared, characters, octets, charset, nullable, default, extra in cursor.fetchall():
        kind, extra, nullable = _text(kind).lower(), _text(extra).lower(), str(nullable).upper() == "YES"
        yield Column(
            table=str(table),
            name=str(name).lower(),
            kind=kind,
            declared=_text(declared),
            characters=int(characters) if kind in CHARACTERS else None,
            octets=int(octets) if kind in TEXTS else None,
            charset=str(charset or ""),
            nullable=nullable,
            # The first label of an ENUM is its default where none is given.
            default=default is not None or nullable or kind == "enum" or "auto_inc" in extra,
            start=_start(default, nullable=nullable),
            automatic="auto_increment" in extra,
            generated="virtual" in extra or "stored generated" in extra or "persistent" in extra,
        )


def _start(default: object, *, nullable: bool) -> str:
    """What a column holds that nobody has given a value; a number that must be one begins at 0."""
    if default is None:
        return "" if nullable else "0"
    text = _text(default)  # MariaDB quotes texts, and says NULL.
    return "" if text == "NULL" else text.strip("'")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
