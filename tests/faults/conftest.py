"""Scenarios run on a Site of their own (tests/pipeline.py); those that kill a server start one of their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from tests.faults.site import Nursery
from tests.pipeline import Sites, opening_sites


@pytest.fixture
async def sites(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        yield sites


@pytest.fixture(scope="session")
def nursery(_clean_environment: None) -> Iterator[Nursery]:
    """Where sabotaged workers come from."""
    nursery = Nursery()
    yield nursery
    nursery.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is run by `make faults` alone."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)
