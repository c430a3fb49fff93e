"""What :class:`calltasks.CallTasks` does about numbers that are not to be called (rules 11.3 to 11.6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from calltasks.database.connection import Database
from calltasks.database.tables import opt_outs as table
from calltasks.database.tables.opt_outs import IMPORT, PERSON, Kind, OptOut, Refusal
from calltasks.database.tables.tasks import has_organization
from calltasks.errors import UnknownOptOutError, WrongUseError
from calltasks.rules import opt_out_lists as lists
from calltasks.rules.phones import dialled, e164
from calltasks.rules.spreadsheets import lines

PAGE = 1000
MOST_BY = 191


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of a list: how many numbers it has, and how many of them did not stand yet."""

    numbers: int
    added: int


class OptOuts:
    """Every method is of one organisation, whose id is compared letter by letter. Numbers may be written as people
    write them.

    Each raises:
        WrongUseError: what was given is no number, no organisation, or too long.
    """

    database: Database

    async def opt_outs(
        self, organization_id: str, *, kind: Kind = "standing", after: int = 0, limit: int = PAGE
    ) -> list[OptOut]:
        """Entries in the order in which they were made, behind the one with the id ``after``.

        Args:
            organization_id: whose.
            kind: ``standing``, of these the ``disputed`` ones, the ``lifted`` ones, or ``all``.
            after: the id of the last one of the page before.
            limit: how many at most.
        """
        return await self.database.run(table.page, _organization(organization_id), kind=kind, after=after, limit=limit)

    async def check_opt_out(self, organization_id: str, phone: str) -> OptOut | None:
        """The entry that keeps the number from being called; None: it may be."""
        return await self.database.run(table.standing, _organization(organization_id), _phone(phone))

    async def add_opt_out(self, organization_id: str, phone: str, reason: str = "", *, by: str) -> bool:
        """Let nobody call the number any more; False if it stood already. ``by``: who says so."""
        one = Refusal(phone=_phone(phone), source=PERSON, evidence=lists.text("reason", reason), created_by=_by(by))
        return bool(await self._enter(organization_id, [one]))

    async def expect_organization(self, organization_id: str) -> None:
        """See that somebody's id is one before numbers are entered under it: a wrong one would protect nobody.

        Raises:
            WrongUseError: the CRM has no task and no lead of it.
        """
        if not await self.database.run(has_organization, _organization(organization_id)):
            raise WrongUseError("organization: the CRM has no call task and no lead of it; nothing was entered")

    async def lift_opt_out(self, organization_id: str, phone: str, reason: str, *, by: str) -> OptOut:
        """Let the number be called again; returns the entry as it is now.

        Raises:
            UnknownOptOutError: it does not stand.
        """
        if not (why := lists.text("reason", reason)):
            raise WrongUseError("reason: say why the number may be called again")
        owner, number, who = _organization(organization_id), _phone(phone), _by(by)
        now = (await self.database.now()).replace(tzinfo=None)
        lifted = await self.database.transaction(table.lift, owner, number, reason=why, by=who, now_utc=now)
        if lifted is None:
            raise UnknownOptOutError
        return lifted

    async def import_opt_outs(self, organization_id: str, data: bytes, *, by: str) -> Imported:
        """Add the numbers of a CSV list, all of them or none.

        Raises:
            WrongUseError: it is no list, or lines of it are wrong, which are named by their numbers.
        """
        who, read = _by(by), lists.read(data)
        entries = [Refusal(phone=phone, source=IMPORT, evidence=said, created_by=who) for phone, said in read]
        added = await self._enter(organization_id, entries)
        return Imported(numbers=len({one.phone for one in entries}), added=len(added))

    async def export_opt_outs(self, organization_id: str, write: Callable[[str], object]) -> int:
        """Write the standing entries as CSV, a thousand at a time, with numbers as they are dialled; returns how
        many."""
        write("\ufeff" + lines([lists.COLUMNS]))
        count, after = 0, 0
        while page := await self.opt_outs(organization_id, after=after, limit=PAGE):
            told = [tell(one, self.database) | {"phone": dialled(one.phone), "reason": one.evidence} for one in page]
            write(lines([[one[name] for name in lists.COLUMNS] for one in told]))
            count, after = count + len(page), page[-1].id
        return count

    async def _enter(self, organization_id: str, refusals: Sequence[Refusal]) -> list[OptOut]:
        """Where every word of a person is entered."""
        owner, now = _organization(organization_id), (await self.database.now()).replace(tzinfo=None)
        return await self.database.transaction(table.enter, owner, refusals, now_utc=now)


def tell(one: OptOut, database: Database) -> dict[str, Any]:
    """An entry for people and programs: times with their offset."""

    def told(value: Any) -> Any:
        if not isinstance(value, datetime):
            return value
        return value.replace(tzinfo=UTC).astimezone(database.zone).isoformat(timespec="seconds")

    return {field.name: told(getattr(one, field.name)) for field in dataclasses.fields(one)}


def _organization(named: str) -> str:
    # The database takes "org " for "org".
    if not named or named != named.rstrip():
        raise WrongUseError("organization: must be the id of one, without blanks at its end")
    return named


def _phone(written: str) -> str:
    if number := e164(written):
        return number
    raise WrongUseError("phone: this is no number that can be dialled, or more than one")


def _by(who: str) -> str:
    return lists.text("by", who, MOST_BY)
