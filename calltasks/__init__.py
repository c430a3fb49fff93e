"""Call tasks, for a backend: :class:`CallTasks`, and the errors that it raises.

::

    from calltasks import CallTasks

    async with CallTasks.connect() as calls:
        task_id = await calls.create_task("org-7", "spring sale", leads=[1, 2, 3])
        await calls.start_call(task_id)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calltasks.call_tasks import CallTasks as CallTasks
    from calltasks.call_tasks import NotRunningError as NotRunningError
    from calltasks.call_tasks import NotStartedError as NotStartedError
    from calltasks.call_tasks import NoWorkerError as NoWorkerError
    from calltasks.call_tasks import UnknownTaskError as UnknownTaskError
    from calltasks.database.tables.tasks import UnknownLeadsError as UnknownLeadsError
    from calltasks.errors import ServiceError as ServiceError
    from calltasks.executions import NoJobIdsError as NoJobIdsError
    from calltasks.options import Options as Options
    from calltasks.settings import SettingsError as SettingsError

__version__ = "0.2.0"
_HOMES = {
    "calltasks.call_tasks": ("CallTasks", "UnknownTaskError", "NotRunningError", "NotStartedError", "NoWorkerError"),
    "calltasks.database.tables.tasks": ("UnknownLeadsError",),
    "calltasks.errors": ("ServiceError",),
    "calltasks.executions": ("NoJobIdsError",),
    "calltasks.options": ("Options",),
    "calltasks.settings": ("SettingsError",),
}


def __getattr__(name: str) -> Any:
    """Each name is loaded when it is first asked for, so that importing the package costs next to nothing."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
