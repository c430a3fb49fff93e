"""What people type for a phone number is one number, or none."""

import pytest

from clients.phones import dialled, e164

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
    ],
)
def test_numbers_of_other_kinds(text: str, number: str, sent: str) -> None:
    assert (e164(text), dialled(text)) == (number, sent)


@pytest.mark.parametrize("text", ["", " ", "\n", "无", "-", "未知", "13900000001/13900000002", "1.39E+10", "n/a", "0"])
def test_what_is_no_number(text: str) -> None:
    assert (e164(text), dialled(text)) == ("", "")
