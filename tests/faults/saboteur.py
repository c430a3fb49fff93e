"""A worker that kills or freezes itself at a chosen boundary: `python -m tests.faults.saboteur`, instead of worker.py.

The product is imported once; every life of the worker is a fork of this process: a kill costs a fraction of a second.
Each life carries out one `Act` of its plan (`SABOTEUR_PLAN`, JSON; no act: an ordinary life) and the next life begins
when the one before it was killed. A *passage* is one crossing of a boundary: begin and end of an activity, a request
before it leaves and after its answer, each SQL statement before and after, COMMIT, a heartbeat, a call of the model.
Which passage is struck depends on the plan alone.

Times that only decide how long a test waits for a dead worker are shortened here: heartbeats, timeouts of activities,
pauses between their tries. The order of things is untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor, Worker

import activities.events
import activities.liveness
import activities.opt_outs
import calltasks.model.analysis
import calltasks.platform.outbound_bot
import calltasks.platform.send_deadline
import worker
from activities.follow_ups import ANALYSE_AGAIN
from activities.steps import STEPS
from calltasks import options
from calltasks.database.connection import Database
from calltasks.names import QUEUES

PLAN, EVENTS, PASSAGES, CLOCK = "SABOTEUR_PLAN", "SABOTEUR_EVENTS", "SABOTEUR_PASSAGES", "SABOTEUR_CLOCK"
HEARTBEAT = timedelta(seconds=3)
IDLE = re.compile(r"heartbeat|activity watch_events|sql (without_positions|give_positions|oldest_age|take_due) ")
"""What a worker passes again and again while it waits."""
TABLE = re.compile(r"(?:FROM|INTO|UPDATE|JOIN) ([a-z_]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What a life does to itself.

    Attributes:
        at: the boundary; empty: any.
        nth: which passage of it, from 1.
        do: `kill`, `stop` (until somebody sends SIGCONT), or `fail` (the statement or request raises).
        gives_up: passages, but for idle ones, after which a life that never came there kills itself all the same; 0:
            never.
    """

    at: str
    nth: int = 1
    do: str = "kill"
    gives_up: int = 0


def plan_of(acts: Sequence[Act]) -> str:
    """The value of `SABOTEUR_PLAN`."""
    return json.dumps([dataclasses.asdict(act) for act in acts])


def random_kills(seed: int, count: int, *, most: int = 40) -> list[Act]:
    """Kills at passages drawn from the seed, each life's within its first `most`."""
    numbers = random.Random(seed)
    return [Act(at="", nth=numbers.randint(1, most)) for _ in range(count)]


class Saboteur:
    """Counts the passages of one life and strikes where its act says."""

    def __init__(self, life: int, act: Act | None) -> None:
        self._life = life
        self._act = act
        self._counts: Counter[str] = Counter()
        self._busy = 0
        self._lock = threading.Lock()
        self._struck = threading.Event()
        self._function = threading.local()
        self._passages = _appending(os.environ.get(PASSAGES, ""))
        self._events = _appending(os.environ.get(EVENTS, ""))

    def passes(self, boundary: str) -> None:
        with self._lock:
            self._counts[boundary] += 1
            self._counts[""] += 1
            self._busy += not IDLE.match(boundary)
            count = self._counts[boundary], self._counts[""]
        self._write(self._passages, f"{boundary}\n")
        act = self._act
        if act is None:
            return
        if 0 < act.gives_up <= self._busy and not self._struck.is_set():
            self._struck.set()
            self._strike(dataclasses.replace(act, do="kill"), "late")
        if act.at not in ("", boundary):
            return
        if (act.nth == count[0] if act.at else act.nth <= count[1]) and not self._struck.is_set():
            self._struck.set()
            self._strike(act, boundary)
            if not act.at:
                # Thawed: it lives on for as long again.
                self._act = dataclasses.replace(act, do="kill", nth=count[1] + act.nth)
                self._struck.clear()

    def _strike(self, act: Act, boundary: str) -> None:
        self._write(self._events, json.dumps([self._life, os.getpid(), act.do, boundary]) + "\n")
        if act.do == "fail":
            raise OSError("cut by the saboteur")
        # To this thread, so that it goes no step further: a signal to the process may stop another one first.
        signal.pthread_kill(threading.get_ident(), signal.SIGKILL if act.do == "kill" else signal.SIGSTOP)

    @staticmethod
    def _write(file: int | None, line: str) -> None:
        if file is not None:
            os.write(file, line.encode())

    # --- where the boundaries are -----------------------------------------------------------------------------------

    def around_database(self) -> None:
        """Before and after every statement, named by the function that runs it."""
        once, execute = Database._once, worker_cursor().execute

        def named(database: Database, function: Any, *arguments: Any, **options: Any) -> Any:
            self._function.name = getattr(function, "__name__", "?").strip("_")
            try:
                return once(database, function, *arguments, **options)
            finally:
                self._function.name = ""

        def executing(cursor: Any, query: Any, args: Any = None) -> Any:
            name = getattr(self._function, "name", "")
            if not name or not isinstance(query, str):
                return execute(cursor, query, args)
            table = TABLE.search(query)
            statement = f"sql {name} {query.split(maxsplit=1)[0]}{' ' + table[1] if table else ''}"
            self.passes(f"{statement} before")
            result = execute(cursor, query, args)
            self.passes(f"{statement} after")
            return result

        setattr(Database, "_once", named)  # noqa: B010
        worker_cursor().execute = executing

    def around_platform(self) -> None:
        """Before a request is made, on its connection before it leaves, and after its answer came."""
        send = calltasks.platform.outbound_bot.OutboundBot._send
        in_time = calltasks.platform.send_deadline._in_time
        action_of = threading.local()

        def sending(platform: Any, action: str, *arguments: Any) -> Any:
            self.passes(f"request {action} before")
            action_of.name = action
            answer = send(platform, action, *arguments)
            self.passes(f"request {action} after")
            return answer

        call, reading = calltasks.platform.outbound_bot.OutboundBot.call, calltasks.platform.outbound_bot.READING

        async def calling(platform: Any, action: str, *arguments: Any, **options: Any) -> Any:
            # What only reads goes from the event loop, and not by way of a thread.
            if not action.startswith(reading):
                return await call(platform, action, *arguments, **options)
            self.passes(f"request {action} before")
            answer = await call(platform, action, *arguments, **options)
            self.passes(f"request {action} after")
            return answer

        def leaving() -> None:
            if action := getattr(action_of, "name", ""):
                action_of.name = ""
                self.passes(f"request {action} leaves")
            in_time()

        setattr(calltasks.platform.outbound_bot.OutboundBot, "_send", sending)  # noqa: B010
        setattr(calltasks.platform.outbound_bot.OutboundBot, "call", calling)  # noqa: B010
        setattr(calltasks.platform.send_deadline, "_in_time", leaving)  # noqa: B010

    def around_model(self) -> None:
        """Before and after each question to the model."""
        ask = calltasks.model.analysis.AnalysisModel._ask

        async def asking(model: Any, *arguments: Any) -> Any:
            self.passes("model before")
            answer = await ask(model, *arguments)
            self.passes("model after")
            return answer

        setattr(calltasks.model.analysis.AnalysisModel, "_ask", asking)  # noqa: B010

    def around_heartbeats(self) -> None:
        """Before and after each heartbeat."""
        beat = activity.heartbeat

        def beating(*details: Any) -> None:
            self.passes("heartbeat before")
            beat(*details)
            self.passes("heartbeat after")

        setattr(activity, "heartbeat", beating)  # noqa: B010


def worker_cursor() -> Any:
    """The class whose `execute` every statement of the product goes through."""
    from pymysql.cursors import Cursor

    return Cursor


class _Activities(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, saboteur: Saboteur) -> None:
        super().__init__(following)
        self._saboteur = saboteur

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        name = activity.info().activity_type
        self._saboteur.passes(f"activity {name} begins")
        result = await super().execute_activity(input)
        self._saboteur.passes(f"activity {name} ends")
        return result


class _Sabotage(Interceptor):
    def __init__(self, saboteur: Saboteur) -> None:
        self._saboteur = saboteur

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Activities(next, self._saboteur)


# --- shorter waits, another clock -----------------------------------------------------------------------------------


def hurry() -> None:
    """Only what decides how long a dead worker is waited for."""
    options.HEARTBEAT = HEARTBEAT
    options.WATCH_TIMEOUT = timedelta(seconds=4)
    for name in ("UNTIL_DONE", "THREE_TRIES", "WATCHING"):
        policy = getattr(options, name)
        first = min(policy.initial_interval, timedelta(seconds=0.2))
        hurried = dataclasses.replace(policy, initial_interval=first, maximum_interval=timedelta(seconds=0.5))
        setattr(options, name, hurried)
    for call in (*STEPS, ANALYSE_AGAIN):  # declared when they were imported; those of workflows are made by each run
        object.__setattr__(call, "heartbeat", options.HEARTBEAT)
        object.__setattr__(call, "retry", options.THREE_TRIES)
    activities.liveness.BEAT_SECONDS = 0.4
    activities.opt_outs.CLAIM_SECONDS = 12.0
    activities.events.LOOK_SECONDS = 0.3


def shift_clock(seconds: float) -> None:
    """Every clock that the product and the vendors' SDKs read is this far off; the monotonic one is not."""

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class Shifted(datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls) -> Any:
            return datetime.utcnow() + timedelta(seconds=seconds)

    true_time, true_gmtime = time.time, time.gmtime
    time.time = lambda: true_time() + seconds
    time.gmtime = lambda *moment: true_gmtime(*(moment or (time.time(),)))
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("activities", "calltasks", "darabonba", "alibabacloud_tea_openapi", "Tea"):
            if module.__dict__.get("datetime") is datetime:
                module.__dict__["datetime"] = Shifted
            elif getattr(module.__dict__.get("datetime"), "datetime", None) is datetime:
                module.__dict__["datetime"] = type("shifted", (), {"datetime": Shifted, "timedelta": timedelta})


# --- lives ----------------------------------------------------------------------------------------------------------


def live(life: int, act: Act | None) -> None:
    """One life of the worker, until it is stopped or kills itself."""
    saboteur = Saboteur(life, act)
    saboteur.around_database()
    saboteur.around_platform()
    saboteur.around_model()
    saboteur.around_heartbeats()
    if shift := float(os.environ.get(CLOCK, "0")):
        shift_clock(shift)

    def build(*arguments: Any, **settings: Any) -> Worker:
        sticky = timedelta(seconds=1)
        return Worker(
            *arguments,
            interceptors=[_Sabotage(saboteur)],
            sticky_queue_schedule_to_start_timeout=sticky,
            **settings,
        )

    setattr(worker, "Worker", build)  # noqa: B010
    run: Callable[[Sequence[str]], Awaitable[None]] = worker.run
    asyncio.run(run(QUEUES))  # type: ignore[arg-type]


def supervise() -> None:
    """Live again after every kill, until a life ends in good order or this process is told to stop."""
    acts = [Act(**record) for record in json.loads(os.environ.get(PLAN, "[]"))]
    life, stopping, child = 0, False, 0

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        if child:
            os.kill(child, signal.SIGCONT)
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    while not stopping:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                live(life, acts[life] if life < len(acts) else None)
            except BaseException:
                logging.exception("a life ended by an error")
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            life += 1
        elif os.waitstatus_to_exitcode(status) == 0:
            break
        else:
            # A server that is down while a worker starts ends it; who runs the worker starts it again, and so do we.
            time.sleep(0.3)


def main() -> None:
    """The nursery: for each line of JSON on standard input (`log`, `environment`) a supervisor of its own is forked and
    its process id printed. When the input ends, all of them are killed."""
    hurry()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    children = []
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for number in (1, 2):
                os.dup2(log, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.clear()
            os.environ.update(order["environment"])
            time.tzset()
            logging.basicConfig(
                level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
            )
            supervise()
            os._exit(0)
        children.append(child)
        print(child, flush=True)
    for child in children:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)


def _appending(path: str) -> int | None:
    return os.open(Path(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND) if path else None


if __name__ == "__main__":
    main()
