"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeward.gateway import mqtt
from tests.support.site import TestSite, running_bus


@pytest.fixture
async def bus_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestSite]:
    """A new site with a running NATS server and no roles; a device's door waits for none of them."""
    monkeypatch.setattr(mqtt, "NOBODY_S", 0.0)
    monkeypatch.setattr(mqtt, "ONE_S", 0.0)
    async with running_bus(tmp_path / "home") as site:
        yield site


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run the fault campaigns at full length")
    parser.addoption("--seed", type=int, default=0, help="seed of the hostile campaigns; they print the one they took")


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> bool:
    """Whether the long campaigns were asked for (make faults)."""
    return bool(request.config.getoption("--campaign"))
