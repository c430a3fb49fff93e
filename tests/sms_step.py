"""A step more, as somebody would add it: an SMS to each customer whose follow-up says that they are interested."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from pymysql.cursors import Cursor
from temporalio import activity

from activities.follow_ups import FOLLOW_UP
from activities.liveness import heartbeating
from calltasks.database.connection import Database
from calltasks.database.tables.needs import UNLINKED, Need
from calltasks.database.tables.rows import ids_in
from calltasks.rules.row_ranges import Ranges
from calltasks.steps import Done, Step

LEDGER = "CREATE TABLE sms_ledger (leads_id BIGINT PRIMARY KEY, sent_at DATETIME(6) NULL)"


class Gateway:
    """Sends what it is told to, as often as it is told to, and can say what it has sent. It refuses at first."""

    def __init__(self, sent: Path, refusals: int) -> None:
        self._sent = sent
        self._refusals = refusals

    def sent(self) -> list[str]:
        return self._sent.read_text("utf-8").split() if self._sent.exists() else []

    def send(self, lead: str) -> None:
        if self._refusals and len(self.sent()) >= 3:
            self._refusals -= 1
            raise RuntimeError("the gateway is away")
        with self._sent.open("a", encoding="utf-8") as file:
            file.write(f"{lead}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsRequest:
    """Rows whose customers get an SMS."""

    task_id: int
    organization_id: str
    rows: Ranges


class Texting:
    """The activity that sends them."""

    def __init__(self, database: Database, gateway: Gateway) -> None:
        self._database = database
        self._gateway = gateway

    @activity.defn
    async def send_sms(self, request: SmsRequest) -> Done:
        """Send an SMS to each of these customers who had none."""
        async with heartbeating():
            for lead in await self._database.run(waiting, request):
                await self._database.transaction(self._send, lead)
                await asyncio.sleep(0.02)  # as long as a gateway takes: whoever kills the worker wants to hit
        return Done()

    def _send(self, cursor: Cursor, lead: int) -> None:
        """Once, though whoever was here before may have died between sending and writing it down."""
        cursor.execute("INSERT IGNORE INTO sms_ledger (leads_id) VALUES (%s)", (lead,))
        cursor.execute("SELECT sent_at FROM sms_ledger WHERE leads_id = %s FOR UPDATE", (lead,))
        if cursor.fetchone() == (None,) and str(lead) not in self._gateway.sent():
            self._gateway.send(str(lead))
        cursor.execute("UPDATE sms_ledger SET sent_at = UTC_TIMESTAMP(6) WHERE leads_id = %s", (lead,))


def waiting(cursor: Cursor, request: SmsRequest) -> list[int]:
    condition, parameters = ids_in(request.rows)
    cursor.execute(f"SELECT DISTINCT l.leads_id{SMS.need.rows} AND {condition}", (request.task_id, *parameters))
    return [int(row[0]) for row in cursor.fetchall()]


def sent(cursor: Cursor, task_id: int) -> dict[str, int]:
    cursor.execute(
        "SELECT COUNT(*) FROM sms_ledger WHERE sent_at IS NOT NULL"
        " AND leads_id IN (SELECT leads_id FROM leads_task_list WHERE task_id = %s)",
        (task_id,),
    )
    return {"sms_sent": int((cursor.fetchone() or (0,))[0])}


SMS = Step(
    activity=Texting.send_sms,
    queue="sms",
    priority=4,
    need=Need(
        condition=f"(l.is_interested = '1' AND NOT {UNLINKED} AND NOT EXISTS"
        " (SELECT 1 FROM sms_ledger s WHERE s.leads_id = l.leads_id AND s.sent_at IS NOT NULL))",
        may=lambda group: group.interest == 1,
    ),
    after=FOLLOW_UP.name,
    request=lambda head, _: SmsRequest(**head),
    counts=sent,
)
