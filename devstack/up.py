"""`make up`: the embedded stack and a worker in the foreground until Ctrl-C."""

import sys
import time

from devstack.database_programs import chosen_program
from devstack.processes import StackError
from devstack.stack import Stack, ended_by_signals


def main() -> int:
    """Prints `export NAME=value` lines to stdout once everything runs; all else goes to stderr.

    Returns 0 after Ctrl-C, 1 when a part did not start or ended by itself.
    """
    try:
        print(f"starting {chosen_program().name}, Temporal, the simulators and a worker …", file=sys.stderr)
        with ended_by_signals(), Stack() as stack:
            print(stack.exports(), flush=True)
            print(f"Temporal UI {stack.temporal.ui_url}   logs {stack.directory}   Ctrl-C ends", file=sys.stderr)
            watch(stack)
    except KeyboardInterrupt:
        return 0
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def watch(stack: Stack) -> None:
    """Sleep until Ctrl-C, or until a part ends: then `StackError`."""
    while True:
        stack.check()
        time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
