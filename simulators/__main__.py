"""`python -m simulators`: prints `simulators ready on URL` once it listens, runs until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import signal
import sys

from simulators.options import SimulatorOptions
from simulators.server import running


def parse(arguments: list[str]) -> SimulatorOptions:
    """Every field of SimulatorOptions is an option: `answer_rate` is --answer-rate. Latencies: `0.3` or `0.2,0.5`."""
    parser = argparse.ArgumentParser(prog="python -m simulators", description=SimulatorOptions.__doc__)
    for field in dataclasses.fields(SimulatorOptions):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            parser.add_argument(flag, type=_range, default=default, metavar="SECONDS[,SECONDS]")
        else:
            parser.add_argument(flag, type=type(default), default=default, help=f"default {default!r}")
    return SimulatorOptions(**vars(parser.parse_args(arguments)))


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    return float(low), float(high or low)


async def serve(options: SimulatorOptions) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running(options) as simulators:
        print(f"simulators ready on {simulators.url}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(serve(parse(sys.argv[1:])))
