"""``python -m calltasks.api``."""

from calltasks.api.server import main

main()
