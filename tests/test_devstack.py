"""The embedded stack: parts that were killed come back with their data, and nothing outlives who started it."""

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from devstack.database_programs import chosen_program
from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import Child, StackError, free_port, wait_until
from devstack.temporal import EmbeddedTemporal

PROJECT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.database


@pytest.fixture
def durable_mariadb(tmp_path: Path) -> Iterator[EmbeddedMariaDB]:
    # A path with a space, and too long for a socket in it.
    server = EmbeddedMariaDB(tmp_path / ("a long directory name " * 4))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_mariadb_killed_and_started_again_has_what_was_committed(durable_mariadb: EmbeddedMariaDB) -> None:
    port = durable_mariadb.port
    with durable_mariadb.connect("callcrm", autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE note (text VARCHAR(20))")
        cursor.execute("INSERT INTO note VALUES ('提交')")
        connection.commit()
        cursor.execute("INSERT INTO note VALUES ('lost')")
        durable_mariadb.kill()
    assert not durable_mariadb.process.alive
    durable_mariadb.start()
    with durable_mariadb.connect("callcrm") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT text FROM note")
        assert cursor.fetchall() == (("提交",),)
    assert durable_mariadb.port == port


def test_mariadb_lets_nobody_else_in(durable_mariadb: EmbeddedMariaDB) -> None:
    with durable_mariadb.connect(root=True) as connection, connection.cursor() as cursor:
        # The servers' own accounts, which nobody can log in to, have a dot in their names.
        cursor.execute("SELECT user, host FROM mysql.user WHERE user NOT LIKE '%.%' ORDER BY user")
        assert cursor.fetchall() == (("app", "127.0.0.1"), ("root", "127.0.0.1"))
    with durable_mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GRANTS")
        assert not [grant for (grant,) in cursor.fetchall() if "ON *.*" in grant and "USAGE" not in grant]


def test_a_second_mariadb_on_the_same_data_is_refused(durable_mariadb: EmbeddedMariaDB) -> None:
    second = EmbeddedMariaDB(durable_mariadb.directory)
    with pytest.raises(StackError, match=f"another {second.program.name} server uses"):
        second.start()
    durable_mariadb.stop()
    second.start()
    second.stop()


def test_a_mariadb_that_cannot_start_shows_why(tmp_path: Path) -> None:
    server = EmbeddedMariaDB(tmp_path, options=["--no-such-option"])
    with pytest.raises(StackError, match=rf"(?s){server.program.name} ended with exit code.*no-such-option"):
        server.start()


@workflow.defn(sandboxed=False)
class Waiting:
    """Ends with what it was told."""

    def __init__(self) -> None:
        self.told = ""

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: bool(self.told))
        return self.told

    @workflow.signal
    def tell(self, text: str) -> None:
        self.told = text

    @workflow.query
    def progress(self) -> dict[str, str]:
        return {"told": self.told}


async def test_temporal_killed_and_started_again_goes_on_with_its_workflows(tmp_path: Path) -> None:
    server = EmbeddedTemporal(tmp_path, headless=True)
    server.start()
    try:
        client = await Client.connect(server.address)
        handle = await client.start_workflow(Waiting.run, id="waiting", task_queue="devstack")
        server.kill()
        assert not server.process.alive
        server.start()
        assert server.is_open("waiting")
        client = await Client.connect(server.address)
        handle = client.get_workflow_handle_for(Waiting.run, "waiting")
        async with Worker(client, task_queue="devstack", workflows=[Waiting]):
            await handle.signal(Waiting.tell, "went on")
            assert await handle.result() == "went on"
        assert not server.is_open("waiting")
    finally:
        server.stop()


async def test_temporal_answers_queries_without_an_sdk(temporal: EmbeddedTemporal, temporal_client: Client) -> None:
    handle = await temporal_client.start_workflow(Waiting.run, id="queried", task_queue="devstack-query")
    async with Worker(temporal_client, task_queue="devstack-query", workflows=[Waiting]):
        await handle.signal(Waiting.tell, "好")
        await handle.result()
        assert await asyncio.to_thread(temporal.query, "queried", "progress") == {"told": "好"}
    with pytest.raises(OSError):
        temporal.query("unknown", "progress")


def test_a_child_that_does_not_get_ready_is_ended_and_its_log_shown(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo warming up; sleep 60"]
    child = Child("sleeper", command, log=tmp_path / "log", ready_line="no", timeout=0.3)
    with pytest.raises(StackError, match=r"(?s)sleeper is ready: not within 0.3 s.*warming up"):
        child.start()
    assert child.exit_code == -signal.SIGKILL


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 60 & echo $!; wait; wait; sleep 60"
    child = Child("stubborn", ["sh", "-c", script], log=tmp_path / "log", ready_line="\n", grace=0.2)
    child.start()
    grandchild = psutil.Process(int(child.output()))
    assert child.stop() == -signal.SIGKILL
    wait_until(lambda: is_gone(grandchild), 150, "the grandchild is gone")


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_ports_are_free_and_given_once() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


class Up:
    """`make up` as a process of its own, with what it started."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "devstack.up"]
        self.process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if "Ctrl-C ends" in line:
                break
        assert self.process.poll() is None, "".join(self.said)
        self.started = psutil.Process(self.process.pid).children(recursive=True)
        self.directory = Path(self.said[-1].split("logs ")[1].split("   ")[0])

    def database(self) -> psutil.Process:
        """The database server: MySQL's process bears the name of its loader, so the options tell."""
        return next(process for process in self.started if any("--datadir=" in part for part in process.cmdline()))

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Exit code and messages, once nothing of it is left."""
        _, errors = self.process.communicate(timeout=300)
        wait_until(lambda: all(map(is_gone, self.started)), 150, "every process has ended")
        wait_until(lambda: not self.directory.exists(), 150, "the directory is removed")
        return self.process.returncode, errors


@pytest.fixture
def up() -> Iterator[Up]:
    stack = Up()
    assert stack.directory.is_dir()
    assert "temporal" in {process.name() for process in stack.started}
    assert stack.database().is_running()
    yield stack
    if stack.process.poll() is None:
        stack.end(signal.SIGKILL)


def test_the_stack_leaves_nothing_behind_after_ctrl_c(up: Up) -> None:
    assert up.end(signal.SIGINT)[0] == 0


def test_the_stack_leaves_nothing_behind_after_sigterm(up: Up) -> None:
    assert up.end(signal.SIGTERM)[0] == 128 + signal.SIGTERM


def test_the_stack_leaves_nothing_behind_after_kill_9(up: Up) -> None:
    assert up.end(signal.SIGKILL)[0] == -signal.SIGKILL


def test_a_part_that_dies_is_named_and_the_rest_is_stopped(up: Up) -> None:
    up.database().kill()
    code, errors = up.ended()
    assert code == 1
    assert f"{chosen_program().name} ended with exit code -9" in errors


def test_several_databases_may_be_made_at_once() -> None:
    """As by tests that run in parallel, each in a process of its own."""
    make = (
        "from devstack.database_programs import chosen_program\n"
        "from devstack.mariadb import _template\n"
        "assert _template(chosen_program()).is_dir()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", make], cwd=PROJECT) for _ in range(6)]
    assert [process.wait(300) for process in processes] == [0] * 6


class Machine:
    """A checkout with nothing but `mysql.sh`, on a machine whose package sources are given."""

    def __init__(self, directory: Path, *sources: str) -> None:
        self._checkout = directory / "a checkout"
        (self._checkout / "devstack").mkdir(parents=True)
        shutil.copy(PROJECT / "devstack/mysql.sh", self._checkout / "devstack")
        (directory / "sources.list").write_text("".join(f"{source}\n" for source in sources))
        self._configuration = directory / "apt.conf"
        self._configuration.write_text(
            f'Dir::Etc::sourcelist "{directory}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        )

    def refusal(self, path: str = os.environ["PATH"]) -> str:
        """Why MySQL cannot be had, as one line; nothing is left of the attempt."""
        done = subprocess.run(
            ["/bin/sh", self._checkout / "devstack/mysql.sh"],
            env={"PATH": path, "APT_CONFIG": str(self._configuration)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert list(self._checkout.glob(".stack/*")) == []
        begun, refused = "setup: fetching MySQL from Debian's unstable suite", "setup: MySQL cannot be had here: "
        said = [line for line in done.stderr.splitlines() if line != begun]
        assert len(said) == 1 and said[0].startswith(refused), done.stderr
        return said[0].removeprefix(refused)


debian = pytest.mark.skipif(
    not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists() or shutil.which("apt-get") is None,
    reason="only Debian has Debian's keys",
)


@debian
@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ((), "its package sources name no mirror"),
        (("neither",), "Malformed"),
        (("deb http://127.0.0.1:1/debian stable main",), "Connection refused"),
    ],
    ids=["no source", "a source that is none", "no network"],
)
def test_without_a_mirror_mysql_is_refused_in_one_line(tmp_path: Path, sources: tuple[str, ...], reason: str) -> None:
    assert reason in Machine(tmp_path, *sources).refusal()


@debian
def test_packages_that_debian_has_not_signed_are_not_taken(tmp_path: Path) -> None:
    """Not even where the machine itself trusts the mirror."""
    suite = tmp_path / "mirror/dists/unstable"
    (suite / "main/binary-amd64").mkdir(parents=True)
    (suite / "main/binary-amd64/Packages").touch()
    nothing = hashlib.sha256().hexdigest()
    (suite / "Release").write_text(
        f"Suite: unstable\nComponents: main\nArchitectures: amd64\nSHA256:\n {nothing} 0 main/binary-amd64/Packages\n"
    )
    machine = Machine(tmp_path, f"deb [trusted=yes] file:{tmp_path}/mirror stable main")
    assert "is not signed" in machine.refusal()


def test_where_there_is_no_debian_mysql_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/dirname").symlink_to(str(shutil.which("dirname")))
    assert "there is no apt-get" in Machine(tmp_path).refusal(str(tmp_path / "programs"))


def test_a_server_of_another_name_is_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devstack.up"],
        env=dict(os.environ, DATABASE="postgres"),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "DATABASE is 'postgres': it has to be mariadb or mysql\n"
