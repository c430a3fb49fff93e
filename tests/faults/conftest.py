"""Scenarios run on a Site of their own (tests/pipeline.py); those that kill a server start one of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.site import Nursery


@pytest.fixture(scope="session")
def nursery(_clean_environment: None) -> Iterator[Nursery]:
    """Where sabotaged workers come from."""
    nursery = Nursery()
    yield nursery
    nursery.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What `make faults` runs."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)
