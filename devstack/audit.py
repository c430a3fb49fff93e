"""Looks at the locked requirements: pinned with hashes, how old, and, where the advisory database answers, known holes.

``python -m devstack.audit`` ends with 0 if nothing is wrong, with 1 if something is. Advisories that cannot be asked
for (no network) are reported as not checked, never as clean, and are no failure.
"""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock", "benchmarks/celery.lock")
MOST_DAYS = 90
"""After so long without a look at newer versions a lock is reported."""


def main() -> int:
    """Prints what was found, one line each."""
    wrong = False
    for name in LOCKS:
        found, problems = pinned((PROJECT / name).read_text())
        days = age(name)
        problems += too_old(name, days)
        print(f"{name}: {len(found)} requirements, changed {'?' if days is None else days} days ago")
        known = advisories(name)
        if known is None:
            print(f"{name}: advisories NOT checked, the database is out of reach")
        else:
            problems += known
        for problem in problems:
            print(f"{name}: {problem}")
        wrong = wrong or bool(problems)
    return int(wrong)


def pinned(lock: str) -> tuple[list[str], list[str]]:
    """The names that a lock holds, and a line for each requirement that is not one version with hashes."""
    names, problems = [], []
    for requirement in re.findall(r"^[^\s#].*(?:\n[ \t]+--hash.*)*", lock, re.MULTILINE):
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        names.append(name.lower())
        if not re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?==[^\s;]+", requirement):
            problems.append(f"{name} is not pinned to one version")
        elif not re.search(r"--hash=sha256:[0-9a-f]+", requirement):
            problems.append(f"{name} has no hash")
    return names, problems


def age(name: str) -> int | None:
    """Days since the commit that changed a lock last; None without git."""
    command = ["git", "log", "-1", "--format=%ct", "--", name]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    if done.returncode != 0 or not done.stdout.strip():
        return None
    return (datetime.now(UTC) - datetime.fromtimestamp(int(done.stdout), UTC)).days


def too_old(name: str, days: int | None) -> list[str]:
    """A line if a lock is old, or if nobody knows."""
    if days is None:
        return [f"the age of {name} is unknown"]
    return [f"unchanged for {days} days: make lock UPGRADE=1, then the tests"] if days > MOST_DAYS else []


def advisories(name: str) -> list[str] | None:
    """A line for each requirement with known holes, by pip-audit; None if it could not ask."""
    options = ["--requirement", name, "--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json"]
    command = [sys.executable, "-m", "pip_audit", *options, "--timeout=10"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError):
        return None
    return [
        f"{dependency['name']} has known holes: {', '.join(hole['id'] for hole in dependency['vulns'])}"
        for dependency in dependencies
        if dependency.get("vulns")
    ]


if __name__ == "__main__":
    sys.exit(main())
