"""``python -m benchmarks``: measure, print a table, write JSON."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import against_celery, against_floor, events, growth, model, sharing
from benchmarks.console import console
from benchmarks.figures import Figure, Sizes
from benchmarks.gate import gate
from benchmarks.site import DIALOGUES
from devstack.stack import PROJECT

FIGURES: Mapping[str, Callable[[Sizes], Awaitable[list[Figure]]]] = {
    "tax": against_floor.tax,
    "latency": against_floor.latency,
    "model": model.model,
    "celery": against_celery.celery,
    "memory": growth.memory,
    "closing": growth.closing,
    "idle": growth.idle,
    "waiting": growth.waiting,
    "trickle": growth.trickle,
    "fairness": sharing.fairness,
    "limits": sharing.limits,
    "gate": gate,
    "events": events.delivery,
    "console": console,
}
ABOUT = "\n\n".join(f"{name}: {(function.__doc__ or '').splitlines()[0]}" for name, function in FIGURES.items())
REPORT = PROJECT / ".stack/benchmarks.json"


def main(
    figures: Annotated[list[str] | None, typer.Argument(help=f"Any of these; all by default.\n\n{ABOUT}")] = None,
    leads: Annotated[int, typer.Option(help="Leads of the usual task.")] = 10_000,
    small: Annotated[int, typer.Option(help="Leads of a small task.")] = 1_000,
    large: Annotated[int, typer.Option(help="Leads of a large task.")] = 100_000,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds against the floor.")] = 3,
    report: Annotated[Path, typer.Option(help="Where the JSON goes.")] = REPORT,
) -> None:
    """Measure the pipeline against its targets; exit code 1 if one is missed."""
    names = figures or list(FIGURES)
    if unknown := [name for name in names if name not in FIGURES]:
        print(f"benchmarks: no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}", file=sys.stderr)
        raise typer.Exit(2)
    sizes = Sizes(leads=leads, small=small, large=large, rounds=rounds)
    measured: dict[str, list[Figure]] = {}
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        measured[name] = asyncio.run(_measure(name, sizes))
        _write(report, sizes, measured)
    Console().print(_table(measured))
    print(f"details: {report}", file=sys.stderr)
    if any(figure.met is False for found in measured.values() for figure in found):
        raise typer.Exit(1)


async def _measure(name: str, sizes: Sizes) -> list[Figure]:
    return await FIGURES[name](sizes)


def _write(report: Path, sizes: Sizes, measured: dict[str, list[Figure]]) -> None:
    content: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processors": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "sizes": asdict(sizes),
        "transcripts": DIALOGUES.name if DIALOGUES.exists() else "the project's own",
        "figures": {name: [asdict(figure) for figure in found] for name, found in measured.items()},
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _table(measured: dict[str, list[Figure]]) -> Table:
    table = Table(title="Call task pipeline, measured on this machine")
    for heading, justify in (
        ("figure", "left"),
        ("measured", "right"),
        ("", "left"),
        ("to reach", "left"),
        ("", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for found in measured.values():
        for figure in found:
            met = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[figure.met]
            table.add_row(
                figure.name,
                f"{figure.value:,.3g}" if figure.value < 1000 else f"{figure.value:,.0f}",
                figure.unit,
                figure.target,
                met,
            )
        table.add_section()
    return table
