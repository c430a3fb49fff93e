"""The whole stack in one object: servers, simulators, workers, and the environment to use them."""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import Child, StackError, free_port, keep_at_exit, remove_at_exit
from devstack.temporal import EmbeddedTemporal

PROJECT = Path(__file__).resolve().parent.parent
# What the simulators let in; no real account looks like this.
SIMULATED_ACCOUNT = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "simulator-key-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "simulator-key-secret",
    "ALIBABA_CLOUD_SECURITY_TOKEN": "",
    "OUTBOUND_BOT_INSTANCE_ID": "simulator-instance",
    "OUTBOUND_BOT_REGION": "cn-shanghai",
    "OUTBOUND_BOT_SCRIPT_ID": "simulator-script",
    "DASHSCOPE_API_KEY": "simulator-dashscope-key",
}
_OURS = ("API_", "EVENTS_", "TEMPORAL_", "ALIBABA_CLOUD_", "OUTBOUND_BOT_", "DASHSCOPE_", "ANALYSIS_")


class Stack:
    """A database, Temporal, simulators and workers on free ports of 127.0.0.1; use it as a context manager.

    `directory` holds data and logs; by default it is a new one below `.stack/`, removed at the end. All parts end with
    this process, however it ends. Each part can be killed and restarted alone: `mariadb`, `temporal`, `simulators`
    and each of `workers` have `stop`, `kill`, `start` and `restart`, and keep their ports.

    `simulator_arguments` go to `python -m simulators`, `settings` are added to the environment of the workers.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        workers: int = 1,
        simulator_arguments: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        headless: bool = False,
        relaxed: bool = False,
    ) -> None:
        self._removed_at_end = directory is None
        self.directory = _new_directory() if directory is None else directory.absolute()
        self.mariadb = EmbeddedMariaDB(self.directory / "mariadb", relaxed=relaxed)
        self.temporal = EmbeddedTemporal(self.directory / "temporal", headless=headless)
        simulator_port = free_port()
        self.simulator_url = f"http://127.0.0.1:{simulator_port}"
        self.variables = self._variables() | dict(settings or {})
        self.environment = _foreign_environment() | self.variables
        self.simulators = Child(
            "simulators",
            [sys.executable, "-m", "simulators", "--port", str(simulator_port), *simulator_arguments],
            log=self.directory / "simulators.log",
            environment=_foreign_environment(),
            directory=PROJECT,
            ready_line=f"simulators ready on {self.simulator_url}",
        )
        self.workers: list[Child] = []
        self.http: Child | None = None
        self._wanted_workers = workers

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the servers and, if workers are wanted, make the tables and start them.

        Raises `StackError` that names the part which did not start, with the end of its log.
        """
        self.mariadb.start()
        self.temporal.start()
        self.simulators.start()
        if self._wanted_workers:
            self.starter("init-db")
        for _ in range(self._wanted_workers):
            self.start_worker()

    def start_worker(self, *queues: str, settings: Mapping[str, str] | None = None) -> Child:
        """Start one more worker, on all task queues or on `queues`, and wait until it polls."""
        name = f"worker {len(self.workers) + 1}"
        worker = Child(
            name,
            [sys.executable, "worker.py", *(part for queue in queues for part in ("--queue", queue))],
            log=self.directory / f"{name.replace(' ', '-')}.log",
            environment=self.environment | dict(settings or {}),
            directory=PROJECT,
            ready_line="worker ready",
            grace=60,
        )
        self.workers.append(worker)
        worker.start()
        return worker

    def start_console(self, organization: str) -> str:
        """Start the HTTP interface with its console for an organisation; returns an address that signs a visitor in."""
        port, token = free_port(), secrets.token_urlsafe(24)
        address = {"API_TOKENS": json.dumps({token: organization}), "API_HOST": "127.0.0.1", "API_PORT": str(port)}
        self.http = Child(
            "console",
            [sys.executable, "-m", "calltasks.api"],
            log=self.directory / "console.log",
            environment=self.environment | address,
            directory=PROJECT,
            ready_line="api ready",
        )
        self.http.start()
        # What stands behind # never leaves the browser.
        return f"http://127.0.0.1:{port}/console/sign-in#{token}"

    def starter(self, *arguments: str | int, timeout: float = 120) -> Any:
        """Run `starter.py ARGUMENTS --json` against this stack and return what it prints, parsed.

        Raises `StackError` with its messages if it fails.
        """
        command = [sys.executable, "starter.py", *map(str, arguments), "--json"]
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}".strip()
            raise StackError(f"starter.py {arguments[0]} ended with exit code {done.returncode}\n{said}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def exports(self) -> str:
        """The settings to use this stack from a shell, one `export NAME=value` a line."""
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in self.variables.items())

    def check(self) -> None:
        """Raise `StackError`, with the end of its log, if a part that was started has ended."""
        for part in self._parts():
            part.check()

    def stop(self) -> None:
        """Stop everything, the workers first, and remove the directory unless the caller gave it."""
        with contextlib.ExitStack() as steps:
            if self._removed_at_end:
                steps.callback(_remove, self.directory)
            for stop in (self.mariadb.stop, self.temporal.stop, self.simulators.stop):
                steps.callback(stop)
            if self.http is not None:
                steps.callback(self.http.stop)
            for worker in self.workers:
                steps.callback(worker.stop)
            # All at once: the slowest worker sets the time, not their sum.
            for worker in self.workers:
                if worker.alive:
                    worker.signal(signal.SIGTERM)

    def _parts(self) -> list[Child]:
        http = [] if self.http is None else [self.http]
        return [self.mariadb.process, self.temporal.process, self.simulators, *self.workers, *http]

    def _variables(self) -> dict[str, str]:
        return {
            "TEMPORAL_ADDRESS": self.temporal.address,
            "TEMPORAL_NAMESPACE": self.temporal.namespace,
            # No profile of the user's own applies here.
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "DATABASE_URL": self.mariadb.url,
            **SIMULATED_ACCOUNT,
            "OUTBOUND_BOT_ENDPOINT": self.simulator_url,
            "OUTBOUND_BOT_QPS": "50",
            "DASHSCOPE_HTTP_BASE_URL": f"{self.simulator_url}/api/v1",
            "ANALYSIS_MODEL": "qwen-plus",
            "ANALYSIS_APP_ID": "",
            "ANALYSIS_QPM": "1200",
            "TIME_ZONE": "Asia/Shanghai",
            "RECORDING_ARCHIVE": "",
            "EVENTS_NETWORKS": "127.0.0.0/8",
            # The user's proxy, if any, does not lead to this machine's own ports.
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
        }


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as an exception does, so that everything is stopped and removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _foreign_environment() -> dict[str, str]:
    """This process's environment without any setting of the product."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def _new_directory() -> Path:
    parent = PROJECT / ".stack"
    try:
        parent.mkdir(exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    except OSError:  # The project's own directory is not ours to write to.
        directory = Path(tempfile.mkdtemp(prefix="stack-"))
    remove_at_exit(directory)
    return directory


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    keep_at_exit(directory)
