"""Ends what its parent leaves behind, however the parent ended, `kill -9` included.

Run as a script, with nothing but the standard library, in a session of its own: it reads lines from its standard input,
of which only the parent holds the other end, and acts once that end is closed. `process PID` and `directory PATH` are
what to end and to remove then, `forget …` takes one back. Linux could tie a child to its parent by PR_SET_PDEATHSIG,
but that fires when the starting *thread* ends, removes no files, and macOS has none.
"""

import os
import shutil
import signal
import sys
import time


def main() -> None:
    # Terminal signals and SIGTERM to a whole group are the parent's to answer; this process outlives it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kept: dict[str, None] = {}
    for line in sys.stdin:
        entry = line.rstrip("\n")
        if entry.startswith("forget "):
            kept.pop(entry.removeprefix("forget "), None)
        else:
            kept[entry] = None
    groups = [int(entry.removeprefix("process ")) for entry in kept if entry.startswith("process ")]
    for group in groups:
        _signal_group(group, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(_signal_group(group, 0) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.02)
    for entry in kept:
        if entry.startswith("directory "):
            shutil.rmtree(entry.removeprefix("directory "), ignore_errors=True)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
