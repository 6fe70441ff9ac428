"""A site's authority and enrolled devices, without the site running."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.site import TestSite, new_home

Enrol = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    home, settings = new_home(tmp_path / "home")
    return TestSite(home, settings)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of small pictures for the simulated ultrasound machine."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        data = np.random.default_rng(number).integers(0, 255, (40, 60), dtype=np.uint8)
        Image.fromarray(data).save(folder / f"{number}.png")
    return folder
