"""What is particular to MariaDB and to MySQL itself; `DATABASE` says which of them the stack and the tests run on."""

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from devstack.processes import StackError

PROJECT = Path(__file__).resolve().parent.parent
MYSQL_ROOT = PROJECT / ".stack" / "mysql"
"""Where `mysql.sh` unpacks MySQL's packages."""


class DatabaseProgram(ABC):
    """The programs of one kind of server, and how they want to be started."""

    name: ClassVar[str]
    flags: ClassVar[tuple[str, ...]]
    only_root: ClassVar[str]
    """SQL that leaves root@127.0.0.1 as the only root."""

    @abstractmethod
    def server(self) -> list[str]:
        """The command of the server, before its options. Raises `StackError` where it is not installed."""

    @abstractmethod
    def make_data(self, directory: Path) -> list[str]:
        """The command that makes a fresh data directory `data` in `directory`, with a root without password."""


class MariaDB(DatabaseProgram):
    """As the machine has it installed."""

    name = "MariaDB"
    flags = (
        "--innodb-log-file-size=48M",
        "--character-set-server=utf8mb4",
        "--collation-server=utf8mb4_unicode_ci",
    )
    only_root = "DELETE FROM mysql.global_priv WHERE user = 'root' AND host <> '127.0.0.1';\nFLUSH PRIVILEGES;\n"

    def server(self) -> list[str]:
        return [find_program("mariadbd", "mysqld"), "--no-defaults"]

    def make_data(self, directory: Path) -> list[str]:
        return [
            find_program("mariadb-install-db", "mysql_install_db"),
            "--no-defaults",
            f"--datadir={directory / 'data'}",
            # In a directory that others use too, a server that starts removes the temporary tables of this one.
            f"--tmpdir={directory}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=48M",
        ]


class MySQL(DatabaseProgram):
    """As `make setup DATABASE=mysql` unpacked it: with a loader and libraries of its own, the machine's are too old.

    Character set, collation, SQL mode and isolation are the server's own defaults, as a CRM would have them.
    """

    name = "MySQL"
    flags = ("--innodb-redo-log-capacity=48M", "--mysqlx=OFF", "--secure-file-priv=")
    only_root = "DROP USER IF EXISTS 'root'@'localhost';\n"

    def server(self) -> list[str]:
        usr = MYSQL_ROOT / "usr"
        loader = next(usr.glob("lib/*/ld*.so.[0-9]"), None)
        if loader is None:
            raise StackError("MySQL is not installed: run `make setup DATABASE=mysql`")
        return [
            str(loader),
            "--library-path",
            str(loader.parent),
            str(usr / "sbin" / "mysqld"),
            "--no-defaults",
            f"--basedir={usr}",
            f"--lc-messages-dir={usr / 'share/mysql'}",
            f"--character-sets-dir={usr / 'share/mysql/charsets'}",
            f"--plugin-dir={usr / 'lib/mysql/plugin'}",
        ]

    def make_data(self, directory: Path) -> list[str]:
        return [
            *self.server(),
            "--initialize-insecure",
            f"--datadir={directory / 'data'}",
            f"--tmpdir={directory}",
            "--skip-log-bin",
            # The log grows to what it may have as it is needed; this is what every copy has to carry.
            "--innodb-redo-log-capacity=8M",
        ]


_PROGRAMS: dict[str, DatabaseProgram] = {"mariadb": MariaDB(), "mysql": MySQL()}


def chosen_program() -> DatabaseProgram:
    """The one that the variable `DATABASE` names: `mariadb`, which is the default, or `mysql`."""
    name = os.environ.get("DATABASE") or "mariadb"
    if name not in _PROGRAMS:
        raise StackError(f"DATABASE is {name!r}: it has to be mariadb or mysql")
    return _PROGRAMS[name]


def find_program(*names: str) -> str:
    """The path of the first of `names` that is installed; servers lie outside a normal user's PATH on Debian."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise StackError(f"{names[0]} is not installed: run `make setup`")
