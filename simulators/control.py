"""The simulation's own HTTP interface under /_sim/: faults, clock, groups, courses, refusals, truth, statistics.

Who says what can be fixed: POST `courses` `{"course": "refuses-politely", "phones": ["13900000001"]}`, for whoever is
assigned after that. GET `refusals` is the record of who has refused further calls by now, in which call, and when.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from simulators.calls import Contact
from simulators.dashscope import Model
from simulators.faults import Faults
from simulators.outbound_bot import OutboundBot
from simulators.stats import Stats
from simulators.world import World


class Control:
    """Answers /_sim/… ; a request it cannot use is a 400 with one line that says why."""

    def __init__(self, world: World, stats: Stats, faults: Faults, outbound_bot: OutboundBot, model: Model) -> None:
        self._world = world
        self._stats = stats
        self._faults = faults
        self._outbound_bot = outbound_bot
        self._model = model

    async def handle(self, request: web.BaseRequest) -> web.Response:
        parts = request.path.removeprefix("/_sim/").strip("/").split("/")
        try:
            if request.method == "POST":
                text = await request.text()
                answer = self._post(parts, json.loads(text) if text.strip() else {})
            elif request.method == "DELETE" and len(parts) == 2 and parts[0] == "groups":
                answer = {"deleted": self._world.delete_group(parts[1])}
            else:
                answer = self._get(parts, "series" in request.query)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        if answer is None:
            return web.json_response({"error": "not found"}, status=404)
        return web.json_response(answer)

    def _get(self, parts: list[str], series: bool) -> Any:
        match parts:
            case ["stats"]:
                report = self._stats.report(self._world, series=series)
                return report | {
                    "contacts_assigned": self._outbound_bot.contacts_assigned,
                    "faults": dict(self._faults.counts),
                }
            case ["groups"]:
                return [
                    {"id": group.id, "name": group.name, "jobs": len(group.jobs), "progress": group.progress()}
                    for group in map(self._world.find_group, list(self._world.groups))
                    if group
                ]
            case ["groups", group_id, "jobs"]:
                group = self._world.find_group(group_id)
                return None if group is None else self._world.truth(group)
            case ["refusals"]:
                return self._world.refusals()
            case ["clock"]:
                return {"now": self._world.clock.now(), "advanced": self._world.clock.advanced}
        return None

    def _post(self, parts: list[str], body: Any) -> Any:
        match parts:
            case ["faults"]:
                self._faults.load(body)
                return {"faults": len(body)}
            case ["reset_stats"]:
                self._stats.reset()
                self._faults.counts.clear()
                return {"reset": True}
            case ["model"]:
                return self._model.switch(**body)
            case ["clock"]:
                self._world.clock.advance(float(body["advance"]))
                return {"now": self._world.clock.now(), "advanced": self._world.clock.advanced}
            case ["courses"]:
                return {"phones": self._world.set_course(str(body["course"]), map(str, body["phones"]))}
            case ["groups"]:
                contacts = [_contact(record) for record in body["contacts"]]
                group = self._world.add_group(
                    body["name"],
                    contacts,
                    group_id=body.get("id", ""),
                    over=body.get("over", True),
                    called_at=body.get("called_at"),
                )
                self._outbound_bot.prepare(group)
                return {"id": group.id, "jobs": [job.id for job in group.jobs]}
        return None


def _contact(record: dict[str, Any]) -> Contact:
    turns = tuple((str(turn["speaker"]), str(turn["text"])) for turn in record.pop("turns", ()))
    return Contact(**record, turns=turns)
