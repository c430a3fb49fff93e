"""What people type for a phone number is one number, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltasks.rules.phones import comparable, dialled, e164

SAME = [
    "13900000001",
    "+86 139 0000 0001",
    "+8613900000001",
    "8613900000001",
    "0086-139-0000-0001",
    "139-0000-0001",
    "139 0000 0001",
    "(139)00000001",
    "13900000001.0",
    "13900000001\n",
    "\t13900000001 ",
    "１３９０００００００１",
    "\u202a13900000001\u202c",
    "139\u200b00000001",
    "139\u00a00000\u00a00001",
    "013900000001",
    "139–0000–0001",
    "+86+8613900000001",
    "086 13900000001",
    "（086）139 0000 0001",
    "+86013900000001",
    "139,0000,0001",
    "13,900,000,001.00",
    "张三 13900000001",
    "13900000001（妻）",
    "手机：13900000001。",
    "'13900000001",
    "17951 13900000001",
    "139\u200b00000001\0",
    "Tel:13900000001",
    "Wang Li 13900000001 (office)",
    "13900000001 ext 8",
    "张三/13900000001",
]


@pytest.mark.parametrize("text", SAME)
def test_one_number_however_it_is_stored(text: str) -> None:
    assert (e164(text), dialled(text)) == ("+8613900000001", "13900000001")


@pytest.mark.parametrize(
    ("text", "number", "sent"),
    [
        ("010-12345678", "+861012345678", "01012345678"),
        ("(0755) 12345678", "+8675512345678", "075512345678"),
        ("+86 755 1234 5678", "+8675512345678", "075512345678"),
        ("400-000-0001", "+864000000001", "4000000001"),
        ("+852 5123 4567", "+85251234567", "0085251234567"),
        ("+1 310 555 0123", "+13105550123", "0013105550123"),
        ("001 310 555 0123", "+13105550123", "0013105550123"),
        ("0311-5550123", "+863115550123", "03115550123"),
        ("82345678", "+8682345678", "82345678"),
        ("95588", "+8695588", "95588"),
        ("010.1234.5678", "+861012345678", "01012345678"),
        ("办公室010-12345678", "+861012345678", "01012345678"),
        ("Tel: 010-12345678", "+861012345678", "01012345678"),
        ("010-12345678 ext 8", "+861012345678", "01012345678"),
        ("010-12345678 Extension 801", "+861012345678", "01012345678"),
    ],
)
def test_numbers_of_other_kinds(text: str, number: str, sent: str) -> None:
    assert (e164(text), dialled(text)) == (number, sent)


NONE = [
    *("", " ", "\n", "无", "-", "未知", "n/a", "null", "0", "86", "+86", "\0"),
    *("13900000001/13900000002", "13900000001 13900000002", "13900000001或13900000002", "13900000001转8001"),
    *("1.39E+10", "1.3900000001e10", "13900000001e0", "3.14", "2026-11-25", "2026/11/25"),
]
NOBODYS = ["1390000000", "139000000011", "13900000001.5", "13900000001-1", "139****0001", "20000000000", "999999999"]
NOBODYS += [
    *(
        "1380000xxxx",
        "138-0000-XXXX",
        "138oooo0001",
        "139abcd0001",
        "138xxxx0001",
        "l3900000001",
        "１３８００００ｘｘｘｘ",
    ),
    *("0755-1234567x", "0755-1234-XXXX", "8234567x", "0755-1234567x8", "010-12345678x8", "13900000001 x8", "0755-8234"),
    *("021-5876543/4", "1390000000/1", "13800/000001", "１３９０００００００／１", "1390000000 / 1", "010/12345678"),
    *("1390000000|1", "1390000000、1", "1390000000;1", "1390000000~1", "1390000000\\1", "1390000000-1", "1390000000,1"),
    *("1390000000 1", "+1 800 FLOWERS", "010-12345678转8", "010-12345678 转 8", "13900000001 转 8"),
]
"""Read digit by digit, these would be numbers of strangers."""


@pytest.mark.parametrize("text", [*NONE, *NOBODYS])
def test_what_is_no_number(text: str) -> None:
    assert (e164(text), dialled(text)) == ("", "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("+86 139 0000 0001", "13900000001.0"),
        ("13900000001/13900000002", "13900000002"),
        ("13900000001 13900000002", "+8613900000002"),
        ("010-12345678、１３９０００００００１", "0086 13900000001"),
        ("8001", " 8001\n"),
        ("010-12345678转801", "010-12345678转801"),
    ],
)
def test_fields_that_agree(one: str, other: str) -> None:
    assert comparable(one) & comparable(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", ""),
        ("无", "无"),
        ("-", "-"),
        ("139****0001", "139****0001"),
        ("139xxxx0001", "139xxxx0001"),
        ("1390000XXXX", "1390000XXXX"),
        ("8001", "8002"),
        ("13900000001", "1390000000"),
    ],
)
def test_fields_that_do_not(one: str, other: str) -> None:
    assert not comparable(one) & comparable(other)


@given(st.text(st.sampled_from("0123456789+-() .转x张/,*eE１\u202a\n\0"), max_size=24) | st.text(max_size=24))
def test_whatever_is_typed_is_read_in_one_way(text: str) -> None:
    number, sent = e164(text), dialled(text)
    assert bool(number) == bool(sent)
    assert not sent or (sent.isascii() and sent.isdigit())
    # What we hand over and the platform lists again is the same number; so is what was normalised before.
    assert not number or (e164(sent), e164(number)) == (number, number)
    assert not number or comparable(text) == {number}
