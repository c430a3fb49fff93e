"""Child processes that are waited for, logged, and never outlive their parent."""

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOG_TAIL_LINES = 25


class StackError(RuntimeError):
    """A part of the embedded stack did not start, or ended by itself; the message names it and shows its log's end."""


class _Guard:
    """The process that ends children and removes directories when this process is gone (`guard.py`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-E", str(Path(__file__).with_name("guard.py"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    text=True,
                    cwd="/",
                    start_new_session=True,
                )
                atexit.register(self._finish)
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _finish(self) -> None:
        """At a normal exit the guard ends what was forgotten, before this process is gone."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)


_guard = _Guard()


def remove_at_exit(directory: Path) -> None:
    """Have `directory` removed with all that is in it when this process has ended, however it ends."""
    _guard.tell(f"directory {directory}")


def keep_at_exit(directory: Path) -> None:
    """Take `remove_at_exit` back, for instance because the directory is gone already."""
    _guard.tell(f"forget directory {directory}")


# Below the range from which kernels pick ports for outgoing connections, so that a killed server finds its port free.
_PORTS = range(15_000, 32_000)
_handed_out: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that this process was not given before."""
    for _ in range(1_000):
        port = random.choice(_PORTS)
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise StackError("no free port on 127.0.0.1")


def wait_until(condition: Callable[[], bool], timeout: float, what: str, interval: float = 0.02) -> None:
    """Wait until `condition()` holds, asking every `interval` seconds; after `timeout` seconds `TimeoutError(what)`."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(interval)


class Child:
    """One child process in a group of its own, its output in a log file.

    `command` is started by `start()`, as often as wanted: it is ready when `ready()` holds and `ready_line` is in what
    it logged, within `timeout` seconds. `stop()` asks with SIGTERM and insists with SIGKILL after `grace` seconds.
    `environment` is the whole environment of the child, not an addition. Safe to use from any thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        ready: Callable[[], bool] | None = None,
        ready_line: str = "",
        timeout: float = 60.0,
        grace: float = 15.0,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._environment = None if environment is None else dict(environment)
        self._directory = directory
        self._ready = ready
        self._ready_line = ready_line
        self._timeout = timeout
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._group_is_ours = False
        self._log_start = 0

    def start(self, *, pass_fds: Sequence[int] = ()) -> None:
        """Start it and wait until it is ready.

        Raises `StackError` with the log's end if it ends before, or takes too long (it is killed then).
        """
        if self.alive:
            raise StackError(f"{self.name} is running already")
        self.kill()  # What a start before this one may have left of its group.
        self._spawn(pass_fds)
        try:
            wait_until(self._is_ready, self._timeout, f"{self.name} is ready")
        except TimeoutError as error:
            self.kill()
            raise StackError(f"{error}\n{self.log_tail()}") from None
        except BaseException:
            self.kill()
            raise

    def restart(self) -> None:
        self.stop()
        self.start()

    def _is_ready(self) -> bool:
        self.check()
        return self._ready_line in self.output() and (self._ready is None or self._ready())

    def _spawn(self, pass_fds: Sequence[int]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            # The shell waits for a line before it becomes the command: first the guard must know the process. If this
            # process is killed in between, the line never comes and the shell ends.
            process = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh", *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._directory,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self._process, self._group_is_ours = process, True
        _guard.tell(f"process {process.pid}")
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"go\n")
            process.stdin.close()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Of the last start: None while it runs, negative for a signal."""
        return None if self._process is None else self._process.poll()

    def check(self) -> None:
        """Raise `StackError` with the log's end unless it runs."""
        if not self.alive:
            raise StackError(f"{self.name} ended with exit code {self.exit_code}\n{self.log_tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, for instance SIGSTOP and SIGCONT."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> int | None:
        """End it in good order and return its exit code; None if it never ran."""
        if self._process is None:
            return None
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace)
        return self.kill()

    def kill(self) -> int | None:
        """`kill -9` the process and its group, and return its exit code; None if it never ran."""
        if self._process is None:
            return None
        if self._group_is_ours:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            # Only once: the number may be somebody else's soon.
            self._group_is_ours = False
            _guard.tell(f"forget process {self._process.pid}")
        return self._process.wait()

    def output(self) -> str:
        """What it logged since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self) -> str:
        lines = self.output().splitlines()[-LOG_TAIL_LINES:] if self.log.exists() else []
        return "\n".join([f"--- end of the log of {self.name} ---", *lines, "---"])
