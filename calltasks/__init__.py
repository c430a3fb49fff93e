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
    from calltasks.errors import CallTasksError as CallTasksError
    from calltasks.errors import NoJobIdsError as NoJobIdsError
    from calltasks.errors import NotRunningError as NotRunningError
    from calltasks.errors import NotStartedError as NotStartedError
    from calltasks.errors import NoWorkerError as NoWorkerError
    from calltasks.errors import RunFailedError as RunFailedError
    from calltasks.errors import ServiceError as ServiceError
    from calltasks.errors import SettingsError as SettingsError
    from calltasks.errors import UnknownLeadsError as UnknownLeadsError
    from calltasks.errors import UnknownOptOutError as UnknownOptOutError
    from calltasks.errors import UnknownTaskError as UnknownTaskError
    from calltasks.errors import WrongUseError as WrongUseError
    from calltasks.options import Options as Options

__version__ = "0.2.0"
_HOMES = {"CallTasks": "calltasks.call_tasks", "Options": "calltasks.options"}


def __getattr__(name: str) -> Any:
    """Each name is loaded when it is first asked for, so that importing the package costs next to nothing."""
    if name in _HOMES or name.endswith("Error"):
        return getattr(import_module(_HOMES.get(name, "calltasks.errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
