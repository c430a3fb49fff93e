"""A person's word on a call, from any door (rule 13.5)."""

from __future__ import annotations

from dataclasses import replace

from calltasks.database.connection import Database
from calltasks.database.tables import corrections as table
from calltasks.database.tables.corrections import Word

FOLLOW = "dcc_leads_follow"


async def correct(database: Database, list_id: int, word: Word, organization_id: str, *, by: str) -> None:
    """Write what a person says of a row's call into the CRM, as its columns hold it, and into our ledgers.

    Args:
        database: the CRM's.
        list_id: the row.
        word: times are wall clock.
        organization_id: whose row it is, which the caller has seen to.
        by: who says so.

    Raises:
        NoFollowUpError: there is no follow-up, or a person has deleted it.
    """
    await database.prepare()
    said, now = word.next_follow_time, await database.now()
    word = replace(
        word,
        leads_remark=database.fit(FOLLOW, "leads_remark", word.leads_remark),
        next_follow_time=database.moment(FOLLOW, "next_follow_time", said and said.replace(tzinfo=database.zone)),
    )
    await database.transaction(
        table.correct,
        list_id,
        word,
        organization_id=organization_id,
        by=by,
        now=database.wall_clock(now),
        now_utc=now.replace(tzinfo=None),
    )


async def confirm(database: Database, list_id: int, *, do_not_call: bool, by: str) -> None:
    """Write down that a person finds the judgement of a row's call right.

    Raises:
        NoFollowUpError: there is none.
    """
    now = (await database.now()).replace(tzinfo=None)
    await database.transaction(table.confirm, list_id, do_not_call=do_not_call, by=by, now_utc=now)
