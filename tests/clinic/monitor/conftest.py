"""A monitor on a real bus, for the tests that start and kill it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.monitoring import Monitored
from tests.support.site import TestSite


@pytest.fixture
async def site(bus_site: TestSite) -> AsyncIterator[Monitored]:
    """A site that is listened to; its monitor is not started yet."""
    found = Monitored(bus_site)
    await found.listen()
    yield found
    if found.task is not None and not found.task.done():
        await found.stop()
