"""A site's authority and enrolled devices, without the site running."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.site import TestSite, new_home

Enrol = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    home, settings = new_home(tmp_path / "home")
    return TestSite(home, settings)
