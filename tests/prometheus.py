"""Prometheus itself, from Debian's package: unpacked below `.venv`, never installed, so that no service starts."""

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from devstack.processes import Child, free_port

PROJECT = Path(__file__).resolve().parent.parent
UNPACKED = PROJECT / ".venv/prometheus"


def programs() -> Path:
    """The directory of `prometheus` and `promtool`; the test is skipped where they cannot be had."""
    found = shutil.which("promtool")
    if found and shutil.which("prometheus"):
        return Path(found).parent
    if not (UNPACKED / "usr/bin/promtool").exists():
        _download()
    return UNPACKED / "usr/bin"


def _download() -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("Prometheus is not installed, and this is not Debian")
    shutil.rmtree(UNPACKED, ignore_errors=True)
    UNPACKED.mkdir(parents=True)
    if not _apt("download", "prometheus"):
        # A fresh machine has no list of packages yet; only root may fetch it.
        fetched = os.getuid() == 0 and _apt("update") and _apt("download", "prometheus")
        if not fetched:
            shutil.rmtree(UNPACKED)
            pytest.skip("Prometheus is not installed, and Debian's packages are out of reach")
    package = next(UNPACKED.glob("prometheus_*.deb"))
    subprocess.run(["dpkg", "-x", package, UNPACKED], check=True)
    package.unlink()


def _apt(*arguments: str) -> bool:
    command = ["apt-get", "-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", *arguments]
    return subprocess.run(command, cwd=UNPACKED, capture_output=True, timeout=100, check=False).returncode == 0


def promtool(*arguments: str | Path) -> str:
    """What promtool says; the test fails with it if that is no success."""
    done = subprocess.run([programs() / "promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """A server with the project's configuration and rules that looks at one worker twice a second."""

    def __init__(self, directory: Path, worker: str) -> None:
        configuration = yaml.safe_load((PROJECT / "monitoring/prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        configuration["rule_files"] = [str(PROJECT / "monitoring" / name) for name in configuration["rule_files"]]
        [job] = configuration["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [worker]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._address = f"127.0.0.1:{free_port()}"
        self.process = Child(
            "Prometheus",
            [
                programs() / "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={self._address}",
            ],
            log=directory / "prometheus.log",
            ready_line="Server is ready to receive web requests",
        )

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API."""
        url = f"http://{self._address}/api/v1/{path}?{urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]
