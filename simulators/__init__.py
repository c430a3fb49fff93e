"""OutboundBot and DashScope as HTTP servers with the vendors' wire format, for demonstrations, tests and benchmarks."""

from simulators.calls import Contact
from simulators.faults import Fault
from simulators.options import (
    ACCESS_KEY_ID,
    ACCESS_KEY_SECRET,
    DASHSCOPE_API_KEY,
    INSTANCE_ID,
    SCRIPT_ID,
    SimulatorOptions,
)
from simulators.server import Simulators, running, running_in_thread

__all__ = [
    "ACCESS_KEY_ID",
    "ACCESS_KEY_SECRET",
    "DASHSCOPE_API_KEY",
    "INSTANCE_ID",
    "SCRIPT_ID",
    "Contact",
    "Fault",
    "SimulatorOptions",
    "Simulators",
    "running",
    "running_in_thread",
]
