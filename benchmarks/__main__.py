"""``python -m benchmarks``."""

import typer

from benchmarks.run import main

if __name__ == "__main__":
    typer.run(main)
