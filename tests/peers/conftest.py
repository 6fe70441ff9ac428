"""Fixtures for tests against real peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.orthanc import Orthanc, running_orthanc


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A running, empty Orthanc."""
    with running_orthanc(tmp_path / "orthanc") as pacs:
        yield pacs
