"""The door of backends: ``from starter import CallTasks``, and the command line (``python starter.py --help``)."""

from calltasks import CallTasks as CallTasks

if __name__ == "__main__":
    from calltasks.cli.commands import main

    main()
