"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.site import TestSite, running_bus


@pytest.fixture
async def bus_site(tmp_path: Path) -> AsyncIterator[TestSite]:
    """A new site with a running NATS server and no roles."""
    async with running_bus(tmp_path / "home") as site:
        yield site
