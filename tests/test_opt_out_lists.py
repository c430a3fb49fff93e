"""Lists of numbers as CSV (rule 11.6): what people's spreadsheets make of them is read, or refused by the line."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltasks.errors import WrongUseError
from calltasks.rules import opt_out_lists as lists
from calltasks.rules.phones import dialled, e164
from calltasks.rules.spreadsheets import lines

ONE, TWO = "+8613900000001", "+8613900000002"
RIGHT = {
    "a number a line": ("13900000001\n13900000002\n", ["", ""]),
    "without a last line break": ("13900000001\n13900000002", ["", ""]),
    "Windows": ("13900000001\r\n\r\n13900000002\r\n", ["", ""]),
    "an old Macintosh": ("13900000001\r13900000002\r", ["", ""]),
    "a header alone names": ("phone\n13900000001\n13900000002\n", ["", ""]),
    "reasons": ("phone,reason\n13900000001,来信\n13900000002,\n", ["来信", ""]),
    "the other way round, in capitals": ("Reason, PHONE \n来信,13900000001\n,13900000002\n", ["来信", ""]),
    "semicolons": ("phone;reason\n13900000001;来信, 两次\n13900000002;\n", ["来信, 两次", ""]),
    "tabs": ("phone\treason\n13900000001\t来信\n13900000002\t\n", ["来信", ""]),
    "quotes": ('phone,reason\n"139 0000 0001","说：""别打""，\n挂断"\n13900000002,\n', ['说："别打"，\n挂断', ""]),
    "empty cells behind": ("13900000001,,\n,,\n13900000002,,\n", ["", ""]),
    "a column without a name and without values": ("phone,,reason\n13900000001,,来信\n13900000002,,\n", ["来信", ""]),
    "as people write them": (
        "+86 139-0000-0001\n１３９００００２\n".replace("００００２", "０００００００２"),
        ["", ""],
    ),
    "as a spreadsheet writes them": ('="13900000001"\n13900000002.0\n', ["", ""]),
}
WRONG = {
    "nothing": ("", "empty"),
    "nothing but lines": ("\n,,\n\n", "empty"),
    "no number": ("phone\n13900000001\n张三\n", ": 3;"),
    "a digit too few, and hidden ones": ("13900000001\n1390000000\n139****0002\n", ": 2, 3;"),
    "a spreadsheet has rounded it": ("13900000001\n1.39E+10\n", ": 2;"),
    "two numbers in a field": ("phone\n13900000001/13900000002\n", ": 2;"),
    "a second number beside it": ("13900000001,13900000002\n", ": 1;"),
    "a second number in a column without a name": ("phone,\n13900000001,13900000002\n", ": 2;"),
    "more fields than columns": ("phone,reason\n13900000001,来信,13900000002\n", ": 2;"),
    "another header": ("手机号,原因\n13900000001,来信\n", ": 1, 2;"),
    "a column that is not known": ("phone,phone2\n13900000001,13900000002\n", "line 1:"),
    "a column twice": ("phone,phone\n13900000001,13900000002\n", "line 1:"),
    "an open quote": ('phone,reason\n13900000001,"来信\n13900000002,\n', "line 2:"),
    "a reason without end": (f"phone,reason\n13900000001,{'长' * 1001}\n", ": 2;"),
    "lines that are behind a long field": ('phone,reason\n13900000001,"a\nb\nc"\nx,\n', ": 5;"),
    "many": ("x1\n" * 30, "20 and 10 more;"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize(("content", "reasons"), RIGHT.values(), ids=RIGHT)
def test_a_list_is_read_however_it_is_written(content: str, reasons: list[str], encoding: str) -> None:
    assert lists.read(content.encode(encoding)) == list(zip([ONE, TWO], reasons, strict=True))


@pytest.mark.parametrize(("content", "expected"), WRONG.values(), ids=WRONG)
def test_a_list_that_is_wrong_is_refused_whole_and_by_the_line(content: str, expected: str) -> None:
    with pytest.raises(WrongUseError) as refused:
        lists.read(content.encode())
    said = str(refused.value)
    assert expected in said and "139" not in said and "\n" not in said and "张三" not in said


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\xff\xfe1", b"PK\x03\x04\xff\xff\xff"])
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(WrongUseError, match="no text"):
        lists.read(data)


@given(st.binary(max_size=200) | st.text(alphabet='phone,reason139\n\r\t;"=+', max_size=80).map(str.encode))
def test_no_bytes_end_in_anything_but_numbers_or_one_line(data: bytes) -> None:
    try:
        found = lists.read(data)
    except WrongUseError as error:
        assert "\n" not in str(error)
    else:
        assert all(e164(phone) == phone for phone, _ in found)


@given(
    st.lists(
        st.lists(
            st.text(max_size=8) | st.sampled_from(["=1+1", "+1", "-1", "@a", "\t=1", " =1", "＝1", "\0=1+1", " \0+1"])
        )
    )
)
def test_no_cell_is_a_formula_and_every_cell_comes_back(rows: list[list[str]]) -> None:
    made = lines([["", *row] for row in rows])
    read = list(csv.reader(io.StringIO(made, newline="")))
    assert [[cell.removeprefix("'") for cell in row[1:]] for row in read] == [
        [cell.replace("\0", "").removeprefix("'") for cell in row] for row in rows
    ]
    for cell in (cell for row in read for cell in row):
        assert cell.lstrip()[:1] not in ("=", "+", "-", "@", "＝") and cell[:1] not in ("\t", "\r", "\n")


@pytest.mark.parametrize("number", [ONE, "+861012345678", "+864001234567", "+8695588", "+85251234567", "+14155550123"])
def test_a_number_as_it_is_dialled_is_the_same_number(number: str) -> None:
    assert e164(dialled(number)) == number == e164(number)
