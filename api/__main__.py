"""``python -m api``."""

from api.server import main

main()
