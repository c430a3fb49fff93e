"""A private MariaDB or MySQL server: own data directory, free port, gone without a trace."""

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pymysql

from devstack.database_programs import DatabaseProgram, chosen_program
from devstack.processes import Child, StackError, free_port, keep_at_exit, remove_at_exit

_FLAGS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=64M",
)
# Commits are lost with the machine, and with the server too: for tests that kill neither.
_RELAXED_FLAGS = ("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=OFF", "--innodb-flush-method=nosync")
_SOCKET_PATH_LIMIT = 100  # Bytes; the kernels' own limits are 107 on Linux and 103 on macOS.


class EmbeddedMariaDB:
    """One server below `directory`, which is created and keeps its data until the caller removes it.

    The variable `DATABASE` says whether it is MariaDB or MySQL; that the data were made by the other is not seen.
    `start`, `stop`, `kill` and `restart` work on the same data and port. `relaxed` trades durability for speed.
    `options` are further flags of the server, for instance `--max-connections=5`; they may be changed between starts.
    """

    def __init__(self, directory: Path, *, relaxed: bool = False, options: Sequence[str] = ()) -> None:
        self.program = chosen_program()
        self.directory = directory.absolute()
        self.options = list(options)
        self.port = free_port()
        self.user, self.password, self.database = "app", secrets.token_hex(12), "callcrm"
        self._root_password = secrets.token_hex(12)
        self._relaxed = relaxed
        self._datadir = self.directory / "data"
        self._socket_directory: Path | None = None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """As `DATABASE_URL` wants it; the user has all rights on databases whose name begins with `callcrm`."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        return f"mysql+pymysql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def process(self) -> Child:
        if self._child is None:
            raise StackError(f"{self.program.name} was not started")
        return self._child

    def start(self) -> None:
        """Start the server on its data, which is made at the first start, and wait until it answers.

        Raises `StackError` if another server has the data directory, or the server does not come up.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The server inherits the lock and holds it until it ends, whatever becomes of this process.
        with self._lock() as lock:
            if not self._datadir.exists():
                copy = self.directory / "data.new"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(_template(self.program), copy)
                copy.rename(self._datadir)
            self._child = Child(
                self.program.name,
                self._command(),
                log=self.directory / "database.log",
                environment=_environment(),
                ready=self._answers,
                grace=30,
            )
            self._child.start(pass_fds=[lock])

    def stop(self) -> None:
        """End the server in good order."""
        if self._child is not None:
            self._child.stop()
        self._remove_socket_directory()

    def kill(self) -> None:
        """`kill -9` the server."""
        if self._child is not None:
            self._child.kill()
        self._remove_socket_directory()

    def restart(self) -> None:
        self.stop()
        self.start()

    def connect(self, database: str | None = None, *, root: bool = False, **options: Any) -> Any:
        """A pymysql connection, as the application's user or as root; the caller closes it."""
        defaults: dict[str, Any] = {"charset": "utf8mb4", "ssl_disabled": True, "autocommit": True}
        user, password = ("root", self._root_password) if root else (self.user, self.password)
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, database=database, **(defaults | options)
        )

    def disconnect(self) -> None:
        """Cut every connection of the application's user, as an administrator does."""
        with self.connect(root=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", (self.user,))
            for (number,) in cursor.fetchall():
                with contextlib.suppress(pymysql.MySQLError):  # It has ended by itself in between.
                    cursor.execute("KILL %s", (number,))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[int]:
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lock
        except BlockingIOError:
            raise StackError(f"another {self.program.name} server uses {self._datadir}") from None
        finally:
            os.close(lock)

    def _answers(self) -> bool:
        try:
            self.connect(self.database).close()
        except pymysql.MySQLError:
            return False
        return True

    def _command(self) -> list[str]:
        temporary = self.directory / "tmp"
        temporary.mkdir(exist_ok=True)
        command = [
            *self.program.server(),
            f"--datadir={self._datadir}",
            f"--port={self.port}",
            f"--socket={self._socket()}",
            f"--pid-file={self.directory / 'database.pid'}",
            f"--tmpdir={temporary}",
            f"--init-file={self._init_file()}",
            *_FLAGS,
            *self.program.flags,
        ]
        if self._relaxed:
            command += _RELAXED_FLAGS
        if os.geteuid() == 0:
            command.append("--user=root")
        return command + self.options

    def _socket(self) -> Path:
        path = self.directory / "sock"
        if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
            self._socket_directory = Path(tempfile.mkdtemp(prefix="db-", dir="/tmp"))
            remove_at_exit(self._socket_directory)
            path = self._socket_directory / "sock"
        return path

    def _remove_socket_directory(self) -> None:
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
            keep_at_exit(self._socket_directory)
            self._socket_directory = None

    def _init_file(self) -> Path:
        """SQL that the server runs before it takes connections: each statement stands on a line of its own."""
        path = self.directory / "init.sql"
        path.touch(mode=0o600)
        users = {"root": (self._root_password, "*.*"), self.user: (self.password, f"`{self.database}%`.*")}
        sql = f"CREATE DATABASE IF NOT EXISTS `{self.database}`;\n"
        for user, (password, databases) in users.items():
            sql += f"CREATE USER IF NOT EXISTS '{user}'@'127.0.0.1';\n"
            sql += f"ALTER USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            sql += f"GRANT ALL ON {databases} TO '{user}'@'127.0.0.1';\n"
        sql += "GRANT GRANT OPTION ON *.* TO 'root'@'127.0.0.1';\n"
        path.write_text(sql + self.program.only_root)
        return path


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": os.environ.get("TZ", "")}


_template_lock = threading.Lock()
_templates: dict[str, Path] = {}


def _template(program: DatabaseProgram) -> Path:
    """A fresh data directory to copy, made once a process: that takes 0.5 s (MySQL 3), a copy 0.05."""
    with _template_lock:
        if program.name not in _templates:
            directory = Path(tempfile.mkdtemp(prefix="database-template-"))
            remove_at_exit(directory)
            command = program.make_data(directory)
            if os.geteuid() == 0:
                command.append("--user=root")
            done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
            if done.returncode != 0:
                raise StackError(f"{program.name} made no data directory\n{done.stdout}{done.stderr}")
            _templates[program.name] = directory / "data"
        return _templates[program.name]
